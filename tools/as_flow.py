"""A class-to-image model that predicts noise, as one that predicts a flow: another sampling of the same model.

A sample x = a x0 + b e with a^2 + b^2 = 1 is, divided by a + b, one of a flow at the noise level s = b / (a + b). Its
flow is e - x0, with the e that the model predicts and the x0 that this leaves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from c4d.calibrate.lockstep import Samplings


class AsFlow(nn.Module):
    """The transformer of a DiT pipeline with its classifier-free guidance."""

    def __init__(self, pipe: Any, guidance: float) -> None:
        super().__init__()
        kept = torch.as_tensor(pipe.scheduler.alphas_cumprod).double()
        self.model, self.guidance = pipe.transformer, guidance
        self._levels = ((1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())).numpy()  # of each timestep, rising

    def forward(self, x: Tensor, level: float, labels: Tensor) -> Tensor:
        """x [B, C, H, W] at the noise level in [0, 1], labels [B] int -> the flow, of the shape of x."""
        s = float(np.clip(level, self._levels[0], self._levels[-1]))
        timestep = float(np.interp(s, self._levels, np.arange(len(self._levels))))
        scale = ((1 - s) ** 2 + s**2) ** -0.5  # a + b
        given = x * scale
        both = torch.cat([labels, torch.full_like(labels, self.model.config.num_embeds_ada_norm)])
        times = torch.full((2 * len(x),), timestep)
        out = self.model(torch.cat([given, given]), timestep=times, class_labels=both, return_dict=False)[0]
        asked, unasked = out[:, : x.shape[1]].chunk(2)
        noise = unasked + self.guidance * (asked - unasked)
        return noise - (given - s * scale * noise) / ((1 - s) * scale)


def samplings(pipe: Any, scheduler: Any, *, guidance: float, steps: int, count: int, seed: int) -> Samplings:
    """``count`` samples of classes all over the pipeline's, made at once with a scheduler of flows."""
    model = AsFlow(pipe, guidance)
    classes = model.model.config.num_embeds_ada_norm
    labels = torch.tensor([k * classes // count for k in range(count)])
    size, channels = model.model.config.sample_size, model.model.config.in_channels

    def generate(_: int) -> Tensor:
        scheduler.set_timesteps(steps)
        noises = [torch.Generator().manual_seed(seed + k) for k in range(count)]
        x = torch.stack([torch.randn(channels, size, size, generator=noise) for noise in noises])
        for k, t in enumerate(scheduler.timesteps):
            x = scheduler.step(model(x, float(scheduler.sigmas[k]), labels), t, x, return_dict=False)[0]
        return x

    return Samplings([model], scheduler, generate, 1, [lambda args, kwargs: args[0]])
