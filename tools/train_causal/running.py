"""Updates on one process or several, and trainings that go on from their last snapshot."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tools.training.optimise import Optimisation

EVERY = 50  # updates between two lines of the log, and two snapshots


class Updates(Optimisation):
    """Of parameters that several processes hold: each has a batch of its own, and gradients are their mean.

    They are averaged parameter by parameter, because a rollout is many forwards for one backward.
    """

    def __init__(
        self, accelerator: Accelerator, parameters: Iterable[nn.Parameter], *, steps: int, rate: float, hold: float
    ) -> None:
        trained = [p for p in parameters if p.requires_grad]
        super().__init__(trained, steps=steps, rate=rate, hold=hold, betas=(0.9, 0.98), decay=0.98)
        self.accelerator = accelerator

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)
        for parameter in self.parameters:
            if self.accelerator.num_processes > 1 and parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")


class Snapshots:
    """One file with the state of some updates and of the generator that feeds them."""

    def __init__(
        self, accelerator: Accelerator, file: Path, updates: Sequence[Updates], generator: torch.Generator
    ) -> None:
        self.accelerator, self.file, self.updates, self.generator = accelerator, file, updates, generator
        self.started, self.losses = time.monotonic(), list[tuple[float, ...]]()
        if file.exists():
            state = torch.load(file, map_location=accelerator.device)
            for each, kept in zip(updates, state["updates"], strict=True):
                each.resume(kept)
            # What the other processes draw from here on is their own, but not what they would have drawn.
            generator.manual_seed(state["seed"] + accelerator.process_index)
            print(f"{file.name}: goes on from update {updates[0].done}", flush=True)

    def note(self, name: str, **values: float) -> None:
        """After an update: prints the means of what was noted, and writes the file, every ``EVERY`` updates."""
        done = self.updates[0].done
        self.losses.append(tuple(values.values()))
        if done % EVERY or not self.accelerator.is_main_process:
            return
        means = (sum(column) / len(self.losses) for column in zip(*self.losses, strict=True))
        said = " ".join(f"{key} {mean:.4f}" for key, mean in zip(values, means, strict=True))
        print(f"{name} {done} {time.monotonic() - self.started:.0f} s {said}", flush=True)
        self.losses = []
        state: dict[str, Any] = {"updates": [each.state() for each in self.updates], "seed": 1_000_000 + done}
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.file)
