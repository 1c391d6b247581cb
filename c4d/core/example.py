"""A small model of a class and how its forward is called: what a description is checked with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers, the same in every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nothing(model: nn.Module) -> None:
    """Prepares nothing."""


@dataclass(frozen=True)
class Size:
    """A request as a pipeline turns it into a forward: pixels, frames, tokens of text (None: as the pipeline has them).

    ``dtype`` is that of latents and text. ``decoder``: of the one that is there, the pixels of a latent's side, and its
    frames (None: as the model is published).
    """

    height: int
    width: int
    frames: int = 1
    text: int | None = None
    dtype: torch.dtype = torch.float32
    decoder: tuple[int, int] | None = None

    def latents(self, spatial: int, temporal: int = 1, patch: int = 1) -> tuple[int, int, int]:
        """Frames, rows and columns of latents of a decoder with these factors, unless another is there.

        ``patch`` of them make a token's side. Raises ValueError for sizes that do not divide.
        """
        spatial, temporal = self.decoder or (spatial, temporal)
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels < 1 or pixels % (spatial * patch):
                raise ValueError(f"{name} is {pixels}; this model takes multiples of {spatial * patch}")
        if self.frames < 1 or (self.frames - 1) % temporal:
            raise ValueError(f"frames is {self.frames}; this model takes 1 and more by multiples of {temporal}")
        return (self.frames - 1) // temporal + 1, self.height // spatial, self.width // spatial

    def empty(self, *shape: int) -> Tensor:
        """Latents or text, whatever they are."""
        return torch.empty(*shape, dtype=self.dtype)


@dataclass(frozen=True)
class Example:
    """A class by ``name``, a small ``config`` of it, and the arguments of its forward.

    ``arguments(x, t)``: by name, for latents ``x`` of the shape ``latents`` and a timestep ``t``, a float from 1000
    down to 0, in the unit that the model's pipeline uses; what the forward gets besides is the same in every call.
    ``prepare`` changes a random model in which nothing could be seen (one whose last layer is zero). ``make(**config)``
    makes the model; None: the class of this name in ``module``.
    """

    name: str
    config: Mapping[str, Any]
    latents: tuple[int, ...]
    arguments: Callable[[Tensor, float], Mapping[str, Any]]
    prepare: Callable[[nn.Module], object] = nothing
    make: Callable[..., nn.Module] | None = None
    module: str = "diffusers"

    def build(self, **config: Any) -> nn.Module:
        """The model, with the same random weights each time; ``config`` in place of the example's."""
        make = self.make or getattr(import_module(self.module), self.name)
        torch.manual_seed(0)
        model: nn.Module = make(**{**self.config, **config}).eval()
        self.prepare(model)
        return model

    def run(self, model: nn.Module, x: Tensor, t: float) -> list[Tensor]:
        """Every tensor that a forward returns."""
        plain = {"return_dict": False} if "return_dict" in signature(type(model).forward).parameters else {}
        out = model(**self.arguments(x, t), **plain)
        return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]

    def forward(self, model: nn.Module) -> list[Tensor]:
        """The same forward each time."""
        return self.run(model, noise(*self.latents, seed=3), 700.0)
