"""Which tokens of an attention are the image's or the clip's, which are text, and which groups they are in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from c4d.core.runtime.tokens import frames_of
from c4d.core.spec import ModelSpec
from c4d.inspection.layers import Place
from c4d.inspection.mass import Groups, attention_mass

Grid = Sequence[Sequence[int]]  # the boxes in which the tokens lie, row by row: frames, rows, columns
Grouping = str | Tensor | Sequence[int] | Callable[[Grid], Tensor]
AXES = {"frames": -3, "rows": -2, "columns": -1}


class Seen(NamedTuple):
    """What an attention computed with, of one sample: queries [Sq, H, D], keys [Sk, H, D], mask [1 or H, 1 or Sq, Sk].

    ``text_first``: whether text, if there is any among them, stands before the other tokens.
    """

    q: Tensor
    k: Tensor
    mask: Tensor | None
    text_first: bool


@dataclass(frozen=True)
class Lying:
    """The ``labels`` [N] int64 of the tokens that are grouped, and the ``grid`` in which they lie, if one is known."""

    labels: Tensor
    grid: Grid | None

    @classmethod
    def of(cls, grouping: Grouping, spec: ModelSpec, transformer: nn.Module, inputs: Mapping[str, Any]) -> Lying:
        """``"frames"``, ``"rows"`` or ``"columns"`` (of several boxes one after the other), a label for each token, or
        what makes them of the grid. Raises ValueError for what is none of these, or where the grid is not known."""
        grid = None if spec.grid is None else spec.grid(transformer, inputs)
        if isinstance(grouping, str) or callable(grouping):
            if grid is None:
                raise ValueError(
                    f"the spec of {spec.transformer} does not say how its tokens lie, ModelSpec(grid=…): give groups a "
                    "label for each token"
                )
            grouping = _along(grouping, grid) if isinstance(grouping, str) else grouping(grid)
        labels = torch.as_tensor(grouping).flatten()
        if labels.is_floating_point() or labels.is_complex() or not len(labels) or int(labels.max()) < 0:
            raise ValueError(
                f"groups are {labels.dtype} {list(labels.shape)}; give a whole number from 0 for each token, negative "
                "for one that is in no group"
            )
        return cls(labels.long(), grid)

    @property
    def count(self) -> int:
        """Of the groups."""
        return int(self.labels.max()) + 1

    @property
    def whole(self) -> bool:
        """Whether they are all tokens of the grid, beside which an attention has nothing but text."""
        return self.grid is not None and len(self.labels) == sum(map(math.prod, self.grid))

    def kept(self, keys: int) -> Tensor | None:
        """[keys]: the frames of keys that are of other calls, too, numbered as they are kept; None where they cannot be
        told: groups other than frames, or frames of several sizes."""
        if self.grid is None or len(self.grid) != 1 or not self.whole:
            return None
        each = len(self.labels) // self.count
        alike = torch.equal(self.labels.cpu(), frames_of(self.grid) - 1)
        return torch.arange(keys) // each if alike and keys % each == 0 else None


def known(grouping: Grouping) -> None:
    """Raises ValueError for the name of no grouping."""
    if isinstance(grouping, str) and grouping not in AXES:
        raise ValueError(
            f"unknown groups {grouping!r}: known are {', '.join(AXES)}; or give a label for each token, or a function "
            "of the grid that makes them"
        )


def _along(name: str, grid: Grid) -> Tensor:
    if name == "frames":
        return frames_of(grid) - 1
    found, before = [], 0
    for box in grid:
        if len(box) < 2:
            raise ValueError(f"the tokens lie in the box {tuple(box)}, which has no {name}: give each one's label")
        places = torch.cartesian_prod(*(torch.arange(n) for n in box))
        found.append(places[:, AXES[name]] + before)
        before += box[AXES[name]]
    return torch.cat(found)


def measured(place: Place, seen: Seen, lying: Lying, chunk_bytes: int) -> dict[str, Tensor]:
    """By name, fp32: ``groups`` [H, G, G'], ``text`` [H, G, T] and ``from_text`` [H, T, G], those that there are.

    Of text there are the tokens that a mask of keys leaves. Raises ValueError for tokens that are others than those
    which are grouped.
    """
    (q, k, mask, _), N, G = seen, len(lying.labels), lying.count
    own = Groups(lying.labels.to(q.device), G)
    if place.crosses:
        extra = len(q) - N
        if extra and not (extra > 0 and lying.whole and place.stack.joined):
            raise ValueError(_strange(place, seen, N))
        image = slice(N) if place.stack.joined == "first" else slice(extra, None)
        words = _words(mask, slice(None), 0, len(k), q.device)
        return {"text": attention_mass(q[image], k, own, words, _rows(mask, image), chunk_bytes=chunk_bytes)}
    text = _text(place, seen, lying)
    if text == 0:
        labels = own.labels if len(k) == N else lying.kept(len(k))
        if labels is None:
            raise ValueError(_strange(place, seen, N))
        keys = Groups(labels.to(q.device), max(G, int(labels.max()) + 1))
        return {"groups": attention_mass(q, k, own, keys, mask, chunk_bytes=chunk_bytes)}
    first = place.stack.joined == "last" if place.stack.joined else seen.text_first
    image, said = (slice(text, None), slice(text)) if first else (slice(N), slice(N, None))
    words = _words(mask, said, G, text, q.device)
    parts = (words.labels, own.labels) if first else (own.labels, words.labels)
    both, asked = Groups(torch.cat(parts), words.count), slice(None) if len(q) == N else image
    given = attention_mass(q[asked], k, own, both, _rows(mask, asked), chunk_bytes=chunk_bytes)
    found = {"groups": given[..., :G], "text": given[..., G:]}
    if len(q) > N:
        asking = Groups(torch.where(words.labels < 0, -1, words.labels - G), words.count - G)
        onto = Groups(torch.where(both.labels < G, both.labels, -1), G)
        found["from_text"] = attention_mass(q[said], k, asking, onto, _rows(mask, said), chunk_bytes=chunk_bytes)
    return found


def _text(place: Place, seen: Seen, lying: Lying) -> int:
    """How many tokens of text stand beside those that are grouped in an attention of theirs."""
    queries, keys, tokens = len(seen.q), len(seen.k), len(lying.labels)
    if queries > tokens and keys == queries and lying.whole:
        return queries - tokens
    if queries != tokens or keys < tokens:
        raise ValueError(_strange(place, seen, tokens))
    return keys - tokens if place.cls.kind == "joint attention" else 0


def _words(mask: Tensor | None, said: slice, first: int, text: int, device: torch.device) -> Groups:
    """A group from ``first`` on for each token of text that a mask of keys, if it is one, leaves."""
    seen = torch.ones(text, dtype=torch.bool, device=device)
    if mask is not None and mask.dtype == torch.bool and mask.shape[-2] == 1:
        seen = mask[:, 0, said].any(0)
    return Groups(torch.where(seen, seen.cumsum(0) - 1 + first, -1), first + int(seen.sum()))


def _rows(mask: Tensor | None, which: slice) -> Tensor | None:
    """Of a mask that has something for each query, what it has for some of them."""
    return mask if mask is None or mask.shape[1] == 1 else mask[:, which]


def _strange(place: Place, seen: Seen, tokens: int) -> str:
    return (
        f"{place.name} of {place.spec.transformer} attends with {len(seen.q)} queries to {len(seen.k)} keys, and "
        f"{tokens} tokens are grouped: choose other layers, or give groups a label for each of its tokens"
    )
