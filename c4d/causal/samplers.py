"""How a block of noise becomes a block of frames: in a few steps of a distilled model, or in many with guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Draw = Callable[[Tensor], Tensor]  # fresh noise like a tensor
Velocity = Callable[[Tensor, Tensor], Tensor]  # of latents [B, C, F, H, W] at a timestep [] from 1000 down to 0


class Sampler(Protocol):
    """Makes one block."""

    def begin(self, device: torch.device) -> tuple[Sequence[float] | Tensor, Sequence[float] | None]:
        """The timesteps of the block that comes, and their noise levels where they are known."""
        ...

    def __call__(self, noise: Tensor, velocity: Velocity, draw: Draw) -> Tensor:
        """Clean latents like ``noise`` [B, C, F, H, W], after :meth:`begin`."""
        ...


def shifted(steps: Sequence[float], shift: float) -> list[float]:
    """Noise levels in (0, 1] of the timesteps of an unshifted schedule, which a distilled model was trained at.

    sigma = shift · s / (1 + (shift - 1) · s), s = t / 1000: where a shifted schedule of 1000 steps has its t-th
    (Self-Forcing, arXiv 2506.08009). A trailing 0 is left out.
    """
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift is {shift}; it has to be above 0")
    kept = [float(t) for t in (steps[:-1] if len(steps) > 1 and steps[-1] == 0 else steps)]
    if not kept or not all(0 < t <= 1000 for t in kept) or kept != sorted(set(kept), reverse=True):
        raise ValueError(f"steps is {list(steps)}; allowed are timesteps from 1000 down to above 0, falling")
    return [shift * s / (1 + (shift - 1) * s) for s in (t / 1000 for t in kept)]


class FewSteps:
    """Of each noise level the clean block is predicted, and noised again to the next with fresh noise.

    x0 = x - sigma · v; x' = (1 - sigma') · x0 + sigma' · noise. In fp32, whatever the model computes in.
    """

    def __init__(self, steps: Sequence[float], shift: float) -> None:
        self.levels = shifted(steps, shift)

    def begin(self, device: torch.device) -> tuple[list[float], list[float]]:
        return [1000 * level for level in self.levels], self.levels

    def __call__(self, noise: Tensor, velocity: Velocity, draw: Draw) -> Tensor:
        x = noise.float()
        for i, level in enumerate(self.levels):
            if i:
                x = (1 - level) * x + level * draw(x)
            x = x - level * velocity(x, torch.tensor(1000 * level, device=x.device)).float()
        return x


class ManySteps:
    """The pipeline's own scheduler, begun anew for each block."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; allowed are numbers from 1, or the timesteps of a distilled model")
        self._scheduler, self._steps = scheduler, steps

    def begin(self, device: torch.device) -> tuple[Tensor, list[float] | None]:
        self._scheduler.set_timesteps(self._steps, device=device)
        sigmas = getattr(self._scheduler, "sigmas", None)
        return self._scheduler.timesteps, None if sigmas is None else [float(sigma) for sigma in sigmas]

    def __call__(self, noise: Tensor, velocity: Velocity, draw: Draw) -> Tensor:
        x = noise.float() * getattr(self._scheduler, "init_noise_sigma", 1.0)
        for t in self._scheduler.timesteps:
            x = self._scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
        return x
