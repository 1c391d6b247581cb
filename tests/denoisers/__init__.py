"""Every denoiser of diffusers as a tiny random model, and how a forward of it is called: one entry a class.

A class of diffusers that is neither here nor described by a spec of c4d is in :data:`NOT_DENOISERS`, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Denoiser:
    """A class of diffusers by name, a small ``config`` of it, and the arguments of its forward.

    ``arguments(x, t)``: by name, for latents ``x`` of the shape ``latents`` and a timestep ``t``, a float from 1000 down
    to 0; what the forward gets besides the latents is the same in every call. ``listed``: it takes and returns lists of
    samples (``x`` has them along its first side).
    """

    name: str
    config: Mapping[str, Any]
    latents: tuple[int, ...]
    arguments: Callable[[Tensor, float], Mapping[str, Any]]
    prepare: Callable[[nn.Module], object] = field(default=lambda model: None)  # where random weights would hide it

    def build(self) -> nn.Module:
        import diffusers

        torch.manual_seed(0)
        model: nn.Module = getattr(diffusers, self.name)(**self.config).eval()
        self.prepare(model)
        return model

    def run(self, model: nn.Module, x: Tensor, t: float) -> list[Tensor]:
        """Every tensor that a forward returns."""
        from torch.utils import _pytree as pytree

        out = model(**self.arguments(x, t), return_dict=False)
        return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
