"""What a forward returns, as its tensors and what is around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Structure:
    """How tensors make up an output: its tree (None: one tensor alone), and the leaves that are no tensors."""

    tree: pytree.TreeSpec | None
    others: tuple[tuple[int, Any], ...] = ()

    @classmethod
    def of(cls, output: Any, where: str) -> tuple[list[Tensor], Structure]:
        """The tensors of ``output`` and the rest. Raises TypeError for a leaf that another step may need anew."""
        if isinstance(output, Tensor):
            return [output], cls(None)
        leaves, tree = pytree.tree_flatten(output)
        others = tuple((i, x) for i, x in enumerate(leaves) if not isinstance(x, Tensor))
        if strange := [type(x).__name__ for _, x in others if x is not None]:
            raise TypeError(f"{where} returned {', '.join(strange)} among its tensors; cannot be cached")
        return [x for x in leaves if isinstance(x, Tensor)], cls(tree, others)

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """The output with these tensors."""
        if self.tree is None:
            return tensors[0]
        leaves: list[Any] = list(tensors)
        for i, other in self.others:
            leaves.insert(i, other)
        return pytree.tree_unflatten(leaves, self.tree)


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of every distinct storage behind ``tensors``, so that views of one count once; also without numbers (meta
    tensors, whose addresses are all 0)."""
    held = [x.untyped_storage() for x in tensors]
    return {s._cdata: s.nbytes() for s in held}


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The one tensor, or all numbers of several in a row, [1, N], for what looks at them all."""
    if len(tensors) == 1:
        return tensors[0].detach()
    return torch.cat([x.detach().flatten().float() for x in tensors])[None]


def of_rows(value: Any, rows: Sequence[int], size: int) -> Any:
    """Of what a call is given, or returns, for a batch of ``size``, what is of ``rows``.

    That are the rows of each tensor [size, ...], nested ones too, and the entries of a list with one for each row. All
    else, as tables of all tokens or a tuple of two, is the same for every row.
    """

    def of(x: Any) -> Any:
        if isinstance(x, list):
            rowwise = all(isinstance(each, Tensor) and each.ndim > 0 and each.shape[0] == size for each in x)
            return [x[i] for i in rows] if len(x) == size and not rowwise else [of(each) for each in x]
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] != size:
            return x
        first, count = rows[0], len(rows)
        contiguous = list(rows) == list(range(first, first + count))
        return x[first : first + count] if contiguous else x[list(rows)]

    return pytree.tree_map(of, value, is_leaf=lambda x: isinstance(x, list))


def of_samples(parts: Sequence[Any], rows: Sequence[int]) -> Any:
    """What a batch returns, from what is of each sample; ``rows`` are those of the samples, one after the other."""
    places = sorted(range(len(rows)), key=rows.__getitem__)
    moved = places != list(range(len(rows)))

    def of(*each: Any) -> Any:
        if isinstance(each[0], Tensor):
            joint = torch.cat(each)
            return joint[places] if moved else joint
        if not isinstance(each[0], list):
            return each[0]
        entries = [x for part in each for x in part]
        return [entries[i] for i in places]

    return pytree.tree_map(of, *parts, is_leaf=lambda x: isinstance(x, list))


def rows_of(latents: Any) -> int:
    """How many rows the latents of a forward have: a tensor [B, ...], or a list with a tensor for each."""
    if isinstance(latents, Tensor):
        return latents.shape[0] if latents.ndim else 1
    return len(latents) if isinstance(latents, list) else 1


MOST_COPIES = 4


def copies_of(latents: Any) -> int:
    """How often the latents stand one behind the other, for guidance may run its branches in one batch; a host read."""
    size = rows_of(latents)
    known = [k for k in range(MOST_COPIES, 1, -1) if size % k == 0]
    if not known or not all(isinstance(x, Tensor) for x in latents):
        return 1
    if isinstance(latents, list) and len({x.shape for x in latents}) > 1:
        return 1
    stacked = torch.stack(latents) if isinstance(latents, list) else latents
    same = [(part := stacked.unflatten(0, (k, -1))).eq(part[:1]).all() for k in known]
    return next((k for k, alike in zip(known, torch.stack(same).tolist(), strict=True) if alike), 1)
