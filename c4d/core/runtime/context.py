"""What a forward under way was called with, and by whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.runtime.signals import DecisionSync
from c4d.core.runtime.state import CacheState
from c4d.core.runtime.steps import NoiseLevel
from c4d.core.spec import ModelSpec


@dataclass(frozen=True)
class ForwardContext:
    """The forward under way: its module and the description of it, bound arguments, noise level and ranks.

    ``picked``: :attr:`c4d.core.runtime.state.Run.picked`.
    """

    spec: ModelSpec
    transformer: nn.Module
    inputs: Callable[[], Mapping[str, Any]]
    noise: Callable[[], NoiseLevel]
    ranks: DecisionSync
    picked: dict[str, tuple[int, torch.Size, Tensor]]

    def latents(self) -> list[Tensor]:
        """One tensor, or several where the model takes several (streams, or a list of samples)."""
        inputs, names = self.inputs(), self.spec.denoised
        leaves = [x for name in names for x in pytree.tree_leaves(inputs.get(name)) if x is not None]
        if not leaves or not all(isinstance(x, Tensor) for x in leaves):
            raise RuntimeError(
                f"{self.spec.transformer} is called without a tensor {' or '.join(map(repr, names))} (got "
                f"{', '.join(inputs)}); its spec names the argument that is denoised: latents="
            )
        return [x.detach() for x in leaves]

    def grid(self, branch: CacheState) -> tuple[tuple[int, ...], ...]:
        """The boxes in which the tokens at the exit lie; ``branch`` keeps them."""
        if branch.grid is None:
            assert self.spec.grid is not None
            grid = self.spec.grid(self.transformer, self.inputs())
            if not all(isinstance(box, Sequence) and all(isinstance(n, int) for n in box) for box in grid):
                raise RuntimeError(
                    f"the spec of {self.spec.transformer} gives the grid {grid}: it is one box or several, ((4, 6),)"
                )
            branch.grid = grid
        return branch.grid
