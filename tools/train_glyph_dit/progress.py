"""Unfinished stages on disk: a run that was stopped goes on where it was, with the same result as without the stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tools.training.optimise import Optimisation

from .settings import Settings


@dataclass(frozen=True)
class Progress:
    """The file ``<folder>/<stage>.progress.pt``; `every`: steps between two of its versions."""

    folder: Path
    settings: Settings
    stage: str
    every: int = 250

    @property
    def path(self) -> Path:
        return self.folder / f"{self.stage}.progress.pt"

    def resume(self, model: nn.Module, run: Optimisation, generator: torch.Generator) -> None:
        """Puts model, optimisation and generator where the file says, if there is one.

        Raises ValueError when it was made with other settings.
        """
        if not self.path.exists():
            return
        saved = self.read()
        model.load_state_dict(saved["model"])
        run.optimiser.load_state_dict(saved["optimiser"])
        run.average = saved["average"]
        run.done = saved["done"]
        run.started = time.monotonic() - saved["seconds"]
        generator.set_state(saved["generator"])
        print(f"{self.stage}: goes on after step {run.done}", flush=True)

    def read(self) -> dict[str, Any]:
        """What is in the file. Raises ValueError when it was made with other settings."""
        saved: dict[str, Any] = torch.load(self.path)
        wanted = self.settings.upto(self.stage)
        if saved["settings"] != wanted:
            raise ValueError(
                f"{self.path} was made with {saved['settings']}, asked for is {wanted}; delete it to redo the stage"
            )
        return saved

    def keep(self, model: nn.Module, run: Optimisation, generator: torch.Generator) -> None:
        """Every so many steps, a new version, written beside the file and renamed."""
        if run.done % self.every:
            return
        content = {
            "settings": self.settings.upto(self.stage),
            "model": model.state_dict(),
            "optimiser": run.optimiser.state_dict(),
            "average": run.average,
            "done": run.done,
            "seconds": run.seconds,
            "generator": generator.get_state(),
        }
        partial = self.path.with_suffix(".partial")
        torch.save(content, partial)
        partial.replace(self.path)
