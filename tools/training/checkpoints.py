"""The files in which finished stages are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch


class Staged(Protocol):
    """Settings of a recipe of several stages."""

    def upto(self, stage: str) -> Mapping[str, Any]:
        """Those that the checkpoint of this stage depends on."""
        ...


@dataclass(frozen=True)
class Checkpoints:
    """The files of finished stages in one folder; each remembers the settings that it was made with."""

    folder: Path
    settings: Staged

    def path(self, stage: str) -> Path:
        return self.folder / f"{stage}.pt"

    def load(self, stage: str) -> Any:
        """Raises ValueError when the stage is not finished, or was made with other settings."""
        path = self.path(stage)
        if not path.exists():
            raise ValueError(f"{path} is missing; run stage {stage!r} first")
        saved = torch.load(path)
        wanted = self.settings.upto(stage)
        if saved["settings"] != wanted:
            raise ValueError(
                f"{path} was made with {saved['settings']}, asked for is {wanted}; delete it to redo the stage"
            )
        return saved["content"]

    def save(self, stage: str, content: Any) -> None:
        """Writes beside the file and renames, so that an interrupted run leaves no half-written checkpoint."""
        partial = self.path(stage).with_suffix(".partial")
        torch.save({"settings": self.settings.upto(stage), "content": content}, partial)
        partial.replace(self.path(stage))

    def once(self, stage: str, make: Callable[[], Any]) -> None:
        """Runs the stage unless it is finished."""
        if self.path(stage).exists():
            self.load(stage)
            print(f"{stage}: finished before, kept", flush=True)
        else:
            self.save(stage, make())
