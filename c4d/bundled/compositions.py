"""Procedural captioned pictures: one to four flat shapes on a plain background.

There is no data set on disk: every picture is drawn from the `torch.Generator` that is passed in. The captions ask for
what GenEval asks for: one object, a count, two objects with a colour each, and where one is beside the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from c4d.bundled.clips import BACKGROUNDS, COLOURS, SHAPES, signed_distance

TASKS = ("single", "count", "two", "position")
COUNTS = ("a", "two", "three", "four")
RELATIONS = ("and", "left of", "right of", "above", "below")
SIZE = 64  # pixels
NONE = -1  # in place of what a composition does not have

# Range of the nominal radius for 1, 2, 3 and 4 objects, in frames; a shape reaches at most REACH radii from its centre.
RADII = ((0.16, 0.22), (0.13, 0.16), (0.115, 0.13), (0.10, 0.115))
REACH, GAP = 1.4, 0.07
_CANDIDATES = 64  # layouts that are drawn for each picture; the first that is clear of collisions is taken


class Composition(NamedTuple):
    """Indices into COUNTS, COLOURS, SHAPES, RELATIONS, COLOURS, SHAPES and BACKGROUNDS (in the order of their names).

    ``number`` is that of the first kind of object. A second object, then one of each, has ``relation``, ``colour2`` and
    ``kind2``; without it they are -1.
    """

    number: int
    colour: int
    kind: int
    relation: int
    colour2: int
    kind2: int
    background: int

    @property
    def task(self) -> str:
        """Which of TASKS this is."""
        if self.relation == NONE:
            return TASKS[0] if self.number == 0 else TASKS[1]
        return TASKS[2] if self.relation == 0 else TASKS[3]

    @property
    def objects(self) -> tuple[tuple[int, int], ...]:
        """Colour and kind of every object."""
        first = (self.colour, self.kind)
        return (first,) * (self.number + 1) if self.relation == NONE else (first, (self.colour2, self.kind2))


_COLOURS, _BACKGROUNDS = tuple(COLOURS), tuple(BACKGROUNDS)
_THINGS = tuple(product(range(len(_COLOURS)), range(len(SHAPES))))


def _all() -> Iterable[Composition]:
    for count, thing, background in product(range(len(COUNTS)), _THINGS, range(len(_BACKGROUNDS))):
        yield Composition(count, *thing, NONE, NONE, NONE, background)
    pairs = [(first, second) for first, second in product(_THINGS, _THINGS) if first != second]
    for relation, (first, second), background in product(range(len(RELATIONS)), pairs, range(len(_BACKGROUNDS))):
        yield Composition(0, *first, relation, *second, background)


def _held_out(c: Composition) -> bool:
    if c.relation == NONE:
        # A count of a thing is held out on every background, a single thing on one of the backgrounds.
        where = 5 * c.background if c.number == 0 else 3 * c.number
        return (c.colour + 2 * c.kind + where) % 9 == 0
    # Two things are held out together: in either order, in every relation and on every background.
    low, high = sorted(_THINGS.index(thing) for thing in c.objects)
    return (5 * low + 7 * high) % 9 == 0


# About one in nine is never trained on, so that adherence to unseen prompts can be measured. Every thing, count,
# relation and background occurs on both sides.
COMPOSITIONS = tuple(_all())
TRAIN = tuple(c for c in COMPOSITIONS if not _held_out(c))
HELD_OUT = tuple(c for c in COMPOSITIONS if _held_out(c))
# How often each task is drawn for training.
SHARES: Mapping[str, float] = MappingProxyType({"single": 0.15, "count": 0.30, "two": 0.20, "position": 0.35})


def checked(composition: Sequence[int]) -> Composition:
    """Seven indices as a Composition. Raises ValueError for another number of them and for what cannot be drawn."""
    if len(composition) != len(Composition._fields):
        raise ValueError(f"composition {tuple(composition)} has {len(composition)} indices; allowed are 7")
    c = Composition(*(int(index) for index in composition))
    pair = c.relation != NONE
    second = range(len(_COLOURS)) if pair else (NONE,), range(len(SHAPES)) if pair else (NONE,)
    allowed = (
        range(1) if pair else range(len(COUNTS)),
        range(len(_COLOURS)),
        range(len(SHAPES)),
        range(NONE, len(RELATIONS)),
        *second,
        range(len(_BACKGROUNDS)),
    )
    for field, index, known in zip(Composition._fields, c, allowed, strict=True):
        if index not in known:
            raise ValueError(f"{field} index {index} is unknown; allowed are {known[0]} to {known[-1]}")
    if pair and c.objects[0] == c.objects[1]:
        raise ValueError(f"composition {tuple(c)} has two equal objects; allowed are different ones, or a count of 2")
    return c


def caption(composition: Sequence[int]) -> str:
    """Seven indices -> prompt, 7 to 12 words. Raises ValueError like `checked`."""
    c = checked(composition)
    things = [f"{_COLOURS[colour]} {SHAPES[kind]}" for colour, kind in c.objects]
    if c.relation == NONE:
        what = f"{COUNTS[c.number]} {things[0]}{'s' if c.number else ''}"
    else:
        what = f"a {things[0]} {RELATIONS[c.relation]} a {things[1]}"
    return f"{what} on a {_BACKGROUNDS[c.background]} background"


def parse_caption(prompt: str) -> Composition | None:
    """The inverse of `caption`, blind to case and spacing; None for any other text."""
    colour, kind = f"({'|'.join(_COLOURS)})", f"({'|'.join(SHAPES)})"
    some = f"({'|'.join(COUNTS)}) {colour} {kind}(s?)"
    pattern = f"{some}(?: ({'|'.join(RELATIONS)}) a {colour} {kind})? on a ({'|'.join(_BACKGROUNDS)}) background"
    found = re.fullmatch(pattern, " ".join(prompt.lower().split()))
    if found is None:
        return None
    count, colour1, kind1, plural, relation, colour2, kind2, background = found.groups()
    if bool(plural) != (count != COUNTS[0]):
        return None
    names = (COUNTS, _COLOURS, SHAPES, RELATIONS, _COLOURS, SHAPES, _BACKGROUNDS)
    words = (count, colour1, kind1, relation, colour2, kind2, background)
    try:
        return checked([NONE if word is None else known.index(word) for known, word in zip(names, words, strict=True)])
    except ValueError:
        return None


def sample_compositions(
    n: int, generator: torch.Generator, pool: Sequence[Composition] = TRAIN, shares: Mapping[str, float] = SHARES
) -> list[Composition]:
    """Draws n compositions from `pool` with replacement: first the task, with the odds of `shares`, then one of it.

    Raises ValueError when `pool` has nothing of a task that `shares` has.
    """
    of_task = {task: [c for c in pool if c.task == task] for task in shares}
    empty = [task for task, members in of_task.items() if not members]
    if empty:
        raise ValueError(f"the pool has no composition of task {empty[0]!r}; leave it out of shares={dict(shares)}")
    tasks = torch.multinomial(torch.tensor(list(shares.values())), n, replacement=True, generator=generator)
    places = torch.rand(n, generator=generator)
    members = [of_task[list(shares)[task]] for task in tasks.tolist()]
    return [some[int(place * len(some))] for some, place in zip(members, places.tolist(), strict=True)]


def evaluation_set(name: str, pictures: int = 96, *, seed: int = 0) -> tuple[tuple[Composition, ...], range]:
    """The prompts and noise seeds on which adherence is reported: `name` is "seen" or "held_out".

    A quarter of the pictures is of each task, evenly spaced over what the pool has of it, and repeated where there is
    less. `seed` moves all noise seeds. Returns (composition of each picture, seed of each picture).
    Raises ValueError for another name and for a number of pictures that is no positive multiple of four.
    """
    pools = {"seen": (TRAIN, 5000), "held_out": (HELD_OUT, 9000)}
    if name not in pools:
        raise ValueError(f"evaluation set {name!r} is unknown; allowed are {', '.join(pools)}")
    if pictures < 1 or pictures % len(TASKS):
        raise ValueError(f"pictures={pictures}; allowed are positive multiples of {len(TASKS)}")
    pool, first = pools[name]
    each = pictures // len(TASKS)
    chosen: list[Composition] = []
    for task in TASKS:
        # A stride that shares no factor with the size visits what a plain one would skip: all backgrounds, all kinds.
        members = [c for c in pool if c.task == task]
        size = len(members)
        stride = max(1, round(size * (math.sqrt(5) - 1) / 2))
        while math.gcd(stride, size) > 1:
            stride += 1
        chosen += [members[i * stride % size] for i in range(each)]
    return tuple(chosen), range(first + seed, first + seed + pictures)


def render(compositions: Sequence[Sequence[int]], generator: torch.Generator, *, size: int = SIZE) -> Tensor:
    """Draws pictures with random places, radii and tints.

    compositions: n of them, see `checked`; generator: a CPU generator, the only source of randomness.
    Returns float32 [n, 3, size, size] in [0, 1]. Raises ValueError for size below 1 and like `checked`.
    """
    if size < 1:
        raise ValueError(f"size={size}; allowed are 1 and more")
    drawn = [checked(c) for c in compositions]
    n, most = len(drawn), len(COUNTS)
    present = torch.tensor([[i < len(c.objects) for i in range(most)] for c in drawn])
    things = torch.tensor([[c.objects[min(i, len(c.objects) - 1)] for i in range(most)] for c in drawn])
    ranges = torch.tensor([RADII[len(c.objects) - 1] for c in drawn])
    relation = torch.tensor([c.relation for c in drawn])

    # The order of the draws is part of the data: a seed means the same pictures forever.
    span = ranges[:, 1:] - ranges[:, :1]
    radius = ranges[:, :1] + span * torch.rand(n, most, generator=generator)
    places = _places(present, radius, relation, generator)
    tint = torch.tensor(list(COLOURS.values()))[things[..., 0]]
    tint = tint + (torch.rand(n, most, 3, generator=generator) - 0.5) * 0.06
    level = torch.tensor(list(BACKGROUNDS.values()))[[c.background for c in drawn]]
    level = level + (torch.rand(n, generator=generator) - 0.5) * 0.04

    grid = (torch.arange(size).float() + 0.5) / size
    picture = level.view(-1, 1, 1, 1).expand(-1, 3, size, size)
    for i in range(most):
        x, y = torch.broadcast_tensors(
            grid[None, None, None, :] - places[:, i, 0].view(-1, 1, 1, 1),
            grid[None, None, :, None] - places[:, i, 1].view(-1, 1, 1, 1),
        )
        distance = signed_distance(things[:, i, 1], x, y, radius[:, i].view(-1, 1, 1, 1))
        alpha = (0.5 - distance * size / 1.5).clamp(0, 1) * present[:, i].view(-1, 1, 1, 1)  # over 1.5 pixels
        picture = alpha * tint[:, i].view(-1, 3, 1, 1) + (1 - alpha) * picture
    return picture.clamp(0, 1)


def _places(present: Tensor, radius: Tensor, relation: Tensor, generator: torch.Generator) -> Tensor:
    """Centres [n, 4, 2] of objects that stand apart, and as their relation says; x to the right, y downwards."""
    n, most = present.shape
    margin = (REACH * radius)[:, None, :, None]
    between = torch.triu(torch.ones(most, most, dtype=torch.bool), 1)
    pairs = present[:, :, None] & present[:, None, :] & between
    apart = 0.93 * REACH * (radius[:, :, None] + radius[:, None, :]) + GAP
    places, missing = torch.zeros(n, most, 2), torch.ones(n, dtype=torch.bool)
    while missing.any():
        candidates = margin + (1 - 2 * margin) * torch.rand(n, _CANDIDATES, most, 2, generator=generator)
        collides = (torch.cdist(candidates, candidates) < apart[:, None]) & pairs[:, None]
        clear = ~collides.flatten(2).any(2) & _as_related(candidates, relation)
        found = missing & clear.any(1)
        chosen = candidates[torch.arange(n), clear.int().argmax(1)]
        places = torch.where(found.view(-1, 1, 1), chosen, places)
        missing = missing & ~found
    return places


def _as_related(candidates: Tensor, relation: Tensor) -> Tensor:
    """Whether the first object of each candidate [n, k, 4, 2] is clearly where it should be -> bool [n, k]."""
    dx, dy = (candidates[:, :, 0] - candidates[:, :, 1]).unbind(2)
    towards = torch.stack([torch.ones_like(dx), -dx, dx, -dy, dy], 2)
    across = torch.stack([torch.zeros_like(dx), dy, dy, dx, dx], 2).abs()
    clear = across <= 0.5 * towards
    place = relation.clamp_min(0).view(-1, 1, 1).expand(-1, candidates.shape[1], 1)
    return clear.gather(2, place)[..., 0]
