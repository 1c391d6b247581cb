"""The optimisation that all stages share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 50  # steps


class Optimisation:
    """AdamW over a fixed number of steps: warm-up, constant, cosine; clipped gradients; averaged weights.

    hold: the fraction of the steps after which the cosine begins; decay: of the moving average.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        steps: int,
        rate: float,
        hold: float,
        betas: tuple[float, float],
        decay: float,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters, self.steps, self.rate, self.hold, self.decay = list(parameters), steps, rate, hold, decay
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, betas=betas, weight_decay=weight_decay)
        self.average = [p.detach().clone() for p in self.parameters]
        self.done = 0
        self.started = time.monotonic()

    @property
    def progress(self) -> float:
        """0 before the first step, 1 after the last."""
        return self.done / self.steps

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def step(self, loss: Tensor) -> float:
        """One update from a scalar loss; returns the norm of the gradient before clipping."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.zero_grad(set_to_none=True)
        self.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.done += 1
        # A young average must not remember the initial weights for long.
        keep = min(self.decay, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
        return norm.item()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def state(self) -> dict[str, Any]:
        """All that a later run needs to go on from here."""
        return {
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
        }

    def resume(self, state: dict[str, Any]) -> None:
        for parameter, average, kept, kept_average in zip(
            self.parameters, self.average, state["parameters"], state["average"], strict=True
        ):
            parameter.data.copy_(kept)
            average.copy_(kept_average)
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]

    def use_average(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.data.copy_(average)

    def _rate(self) -> float:
        falling = max(0.0, self.progress - self.hold) / (1 - self.hold)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, falling))
        return self.rate * min(1.0, (self.done + 1) / WARM_UP) * (0.01 + 0.99 * cosine)
