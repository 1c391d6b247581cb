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
