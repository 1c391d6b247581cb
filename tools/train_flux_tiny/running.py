"""A training that can be stopped at any moment and goes on from its last snapshot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from tools.training.optimise import Optimisation

EVERY = 100  # steps between two snapshots


class Run(Optimisation):
    """An `Optimisation` that keeps snapshots of itself and of the generator that feeds it in one file.

    A run that finds the file goes on from there. The number of steps may be another one then, as long as the snapshot
    is from before the rate began to fall: the result is that of a run with the new number from the beginning.
    """

    def __init__(self, file: Path, generator: torch.Generator, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.file, self.generator = file, generator
        self.before = 0.0  # seconds of the runs that this one goes on from
        if file.exists():
            self.resume(torch.load(file))

    @property
    def seconds(self) -> float:
        return self.before + super().seconds

    def keep(self) -> None:
        """Writes a snapshot every `EVERY` steps: beside the file, then renamed."""
        if self.done % EVERY:
            return
        state = {**self.state(), "generator": self.generator.get_state(), "seconds": self.seconds}
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.file)

    def resume(self, state: dict[str, Any]) -> None:
        super().resume(state)
        self.generator.set_state(state["generator"])
        self.before = state["seconds"]
        print(f"{self.file.name}: goes on from step {self.done}", flush=True)
