"""What a forward returns, as its tensors and what is around them."""

from __future__ import annotations

from collections.abc import Sequence
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


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The one tensor, or all numbers of several in a row, [1, N], for what looks at them all."""
    if len(tensors) == 1:
        return tensors[0].detach()
    return torch.cat([x.detach().flatten().float() for x in tensors])[None]


def of_rows(value: Any, rows: Sequence[int], size: int) -> Any:
    """Of what a call is given, or returns, for ``size`` samples, what is of those in ``rows``.

    That are the rows of each tensor [size, ...], nested ones too, and the entries of a list with one for each sample.
    All else, as tables of all tokens or a tuple of two, is the same for every sample.
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


def of_samples(parts: Sequence[Any]) -> Any:
    """The output for all samples, from those of one each."""

    def of(*each: Any) -> Any:
        if isinstance(each[0], Tensor):
            return torch.cat(each)
        return [x for part in each for x in part] if isinstance(each[0], list) else each[0]

    return pytree.tree_map(of, *parts, is_leaf=lambda x: isinstance(x, list))


def samples_of(latents: Any) -> int:
    """How many samples the latents of a forward are: a tensor [B, ...], or a list with a tensor for each."""
    if isinstance(latents, Tensor):
        return latents.shape[0] if latents.ndim else 1
    return len(latents) if isinstance(latents, list) else 1
