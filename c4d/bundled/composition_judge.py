"""An analytic judge of compositions: finds the objects in the pixels of a picture, and reads colour, kind and place.

No network is involved. An object is a connected patch that stands out from the border of the picture. A patch that is
like no shape or no colour counts as an object all the same, so that clutter and torn shapes are wrong counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from c4d.bundled.clips import BACKGROUNDS, COLOURS, SHAPE_AREAS, SHAPES, signed_distance
from c4d.bundled.compositions import COUNTS, NONE, RELATIONS, TASKS, Composition, caption, checked, parse_caption
from c4d.metrics.video import check_video

CONTRAST = 0.2  # how far a pixel of an object is from the border in one channel
LEAST_AREA = 0.004  # of the picture; what is smaller is a speck. The smallest drawn triangle has 0.025
SHAPE_OVERLAP = 0.72  # with the ideal shape, for a kind to be clear
COLOUR_DISTANCE = 0.40  # from the nearest colour, for it to be clear


@dataclass(frozen=True)
class Seen:
    """One object: indices of colour and kind (-1 where unclear), centre in frames from the upper left, and how much
    it overlaps the best-fitting ideal shape, 0 to 1."""

    colour: int
    kind: int
    x: float
    y: float
    shape_iou: float


@dataclass(frozen=True)
class Picture:
    """What is in one picture: the index of its background (-1 where unclear), its objects from left to right."""

    background: int
    objects: tuple[Seen, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether each part of a prompt is as asked. ``place`` is True where the prompt asks for no place."""

    number: bool
    colours: bool
    kinds: bool
    place: bool
    background: bool

    @property
    def as_asked(self) -> bool:
        return self.number and self.colours and self.kinds and self.place and self.background


@dataclass(frozen=True)
class TaskScores:
    """Fractions of the pictures that are wholly as asked: of each task (None where there was none), and of all of them.

    ``overall`` is the mean over the tasks, as GenEval has it; ``number`` to ``background`` are the parts of a verdict.
    """

    single: float | None
    count: float | None
    two: float | None
    position: float | None
    overall: float
    number: float
    colours: float
    kinds: float
    place: float
    background: float
    pictures: int


def look(pictures: Tensor) -> list[Picture]:
    """Finds the objects in square pictures [n, 3, S, S] in [0, 1], any floating dtype and device. NaN is black.

    Raises ValueError for another shape, dtype or value range.
    """
    if pictures.dim() != 4:
        raise ValueError(f"pictures have shape {tuple(pictures.shape)}; allowed is [n, 3, S, S]")
    check_video(pictures[:, :, None])
    size = pictures.shape[-1]
    if pictures.shape[-2] != size or size < 16:
        raise ValueError(f"pictures have {pictures.shape[-2]}x{size} pixels; allowed are squares of at least 16x16")
    pictures = pictures.detach().cpu().float().nan_to_num(0).clamp(0, 1)
    borders = _border_median(pictures)
    masks = (pictures - borders[:, :, None, None]).abs().amax(1) > CONTRAST
    labels = _components(masks)
    return [_read(*each) for each in zip(pictures, borders, labels, strict=True)]


def compare(picture: Picture, asked: Sequence[int]) -> Verdict:
    """Holds what was seen against a composition (see `checked`, whose ValueError it raises)."""
    wanted = checked(asked)
    seen = picture.objects
    return Verdict(
        number=len(seen) == len(wanted.objects),
        colours=sorted(s.colour for s in seen) == sorted(colour for colour, _ in wanted.objects),
        kinds=sorted((s.colour, s.kind) for s in seen) == sorted(wanted.objects),
        place=_placed(picture, wanted),
        background=picture.background == wanted.background,
    )


def task_scores(pictures: Tensor, compositions: Sequence[Sequence[int]]) -> TaskScores:
    """Judges pictures [n, 3, S, S] of n compositions. Raises ValueError like `look` and `checked`, for unequal counts,
    and where there is no picture."""
    if len(pictures) != len(compositions) or not len(pictures):
        raise ValueError(f"{len(pictures)} pictures of {len(compositions)}; allowed are equal counts above 0")
    asked = [checked(c) for c in compositions]
    verdicts = [compare(picture, c) for picture, c in zip(look(pictures), asked, strict=True)]
    tasks = {
        task: _mean([v.as_asked for v, c in zip(verdicts, asked, strict=True) if c.task == task]) for task in TASKS
    }
    known = [score for score in tasks.values() if score is not None]
    names = [field.name for field in dataclasses.fields(Verdict)]
    parts = {name: sum(getattr(v, name) for v in verdicts) / len(verdicts) for name in names}
    return TaskScores(
        tasks["single"],
        tasks["count"],
        tasks["two"],
        tasks["position"],
        overall=sum(known) / len(known),
        pictures=len(verdicts),
        **parts,
    )


def reading(prompt: str, frames: Tensor) -> dict[str, Any] | None:
    """What the judge sees in a picture [1, 3, S, S]; None unless the prompt is a caption of a composition.

    ``seen`` is a prompt that the picture is right for, None where there is none, and ``as_asked`` whether it is right
    for this one. (A red circle left of a blue square is also a red circle and a blue square: what was asked for is told
    where it is true.)
    """
    wanted = parse_caption(prompt)
    if wanted is None or len(frames) != 1 or frames.shape[-1] != frames.shape[-2]:
        return None
    picture = look(frames)[0]
    if compare(picture, wanted).as_asked:
        return {"seen": caption(wanted), "as_asked": True}
    described = _described(picture)
    return {"seen": None if described is None else caption(described), "as_asked": False}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _border_median(pictures: Tensor) -> Tensor:
    """Median colour of the outer two pixels -> [n, 3]."""
    sides = [pictures[..., :2, :], pictures[..., -2:, :], pictures[..., :2], pictures[..., -2:]]
    return torch.cat([side.flatten(2) for side in sides], 2).median(2).values


def _components(masks: Tensor) -> Tensor:
    """masks: bool [n, S, S] -> int64 labels of connected patches, four neighbours a pixel; 0 outside of all."""
    size = masks.shape[-1]
    # Every pixel starts with a number of its own; the highest in a patch spreads over it.
    labels = torch.arange(1, size * size + 1).view(size, size) * masks
    while True:
        spread = labels
        for dim, shift in ((1, 1), (1, -1), (2, 1), (2, -1)):
            moved = spread.roll(shift, dim)
            moved.select(dim, 0 if shift > 0 else -1).zero_()
            spread = torch.maximum(spread, moved)
        spread = spread * masks
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _read(picture: Tensor, border: Tensor, labels: Tensor) -> Picture:
    """One picture [3, S, S] with its border's colour [3] and labels [S, S]."""
    size = labels.shape[-1]
    found, areas = labels[labels > 0].unique(return_counts=True)
    kept = found[areas > LEAST_AREA * size * size].tolist()
    objects = [_object(picture, border, labels, label) for label in kept]
    return Picture(_background(border), tuple(sorted(objects, key=lambda seen: seen.x)))


def _object(picture: Tensor, border: Tensor, labels: Tensor, label: int) -> Seen:
    size = labels.shape[-1]
    own = labels == label
    contrast = (picture - border[:, None, None]).abs().amax(0) * own
    core = contrast > 0.7 * contrast.max()
    paint = picture[:, core].mean(1)
    colour_distance, colour = (torch.tensor(list(COLOURS.values())) - paint).norm(dim=1).min(0)
    # Coverage: 0 where a pixel has the border's colour, 1 where it has the paint; one pixel of rim belongs to it too.
    direction = paint - border
    alpha = torch.einsum("chw,c->hw", picture - border[:, None, None], direction) / direction.square().sum()
    rim = torch.nn.functional.max_pool2d(own.float()[None], 3, 1, 1)[0]
    alpha = alpha.clamp(0, 1) * rim
    pixel, area = torch.arange(size) + 0.5, alpha.sum()
    x, y = (alpha.sum(0) * pixel).sum() / area, (alpha.sum(1) * pixel).sum() / area
    overlap, kind = _shape_overlaps(alpha, x, y).max(0)
    return Seen(
        colour=int(colour) if colour_distance < COLOUR_DISTANCE else NONE,
        kind=int(kind) if overlap > SHAPE_OVERLAP else NONE,
        x=float(x) / size,
        y=float(y) / size,
        shape_iou=float(overlap),
    )


def _shape_overlaps(alpha: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Soft IoU of a coverage [S, S] with each ideal shape of the same area and centroid -> [shapes]."""
    pixel = torch.arange(alpha.shape[-1]) + 0.5
    kinds = torch.arange(len(SHAPES))
    radius = torch.sqrt(alpha.sum() / torch.tensor(SHAPE_AREAS)).view(-1, 1, 1, 1)
    right, down = torch.broadcast_tensors((pixel - x)[None, None, None, :], (pixel - y)[None, None, :, None])
    right, down = (places.expand(len(SHAPES), -1, -1, -1) for places in (right, down))
    ideal = (0.5 - signed_distance(kinds, right, down, radius) / 1.5).clamp(0, 1)[:, 0]
    shared, joined = torch.minimum(alpha, ideal), torch.maximum(alpha, ideal)
    return shared.sum((1, 2)) / joined.sum((1, 2)).clamp_min(1)


def _background(border: Tensor) -> int:
    """Nearest gray level to a border colour [3]; -1 when it is tinted or far from every level."""
    levels = torch.tensor(list(BACKGROUNDS.values()))
    distance, nearest = (border.mean() - levels).abs().min(0)
    return int(nearest) if border.max() - border.min() < 0.15 and distance < 0.15 else NONE


def _placed(picture: Picture, wanted: Composition) -> bool:
    """Whether the first object is more in the direction asked for than aside of it."""
    if wanted.relation <= 0:
        return True
    things = [[s for s in picture.objects if (s.colour, s.kind) == thing] for thing in wanted.objects]
    if any(len(found) != 1 for found in things):
        return False
    (first,), (second,) = things
    return RELATIONS[wanted.relation] == _relation(first, second)


def _relation(first: Seen, second: Seen) -> str:
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _described(picture: Picture) -> Composition | None:
    """A composition that the picture shows, None where something in it is unclear or more than a caption can say."""
    seen = picture.objects
    things = [(s.colour, s.kind) for s in seen]
    if picture.background == NONE or not things or any(NONE in thing for thing in things):
        return None
    if len(set(things)) == 1 and len(seen) <= len(COUNTS):
        return Composition(len(seen) - 1, *things[0], NONE, NONE, NONE, picture.background)
    if len(seen) != 2:
        return None
    relation = RELATIONS.index(_relation(*seen))
    return Composition(0, *things[0], relation, *things[1], picture.background)
