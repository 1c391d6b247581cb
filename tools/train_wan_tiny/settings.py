"""What a run is asked to do, and the files in which finished stages are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STAGES = ("vae", "latents", "decoder", "transformer", "export", "judge")


@dataclass(frozen=True)
class Settings:
    """Everything that a result depends on, besides the thread count (which moves rounding)."""

    seed: int = 0
    vae_steps: int = 1271
    vae_batch: int = 8  # of 5-frame windows; three times as many single frames, half as many whole clips
    clips: int = 5120
    decoder_steps: int = 1500
    transformer_steps: int = 4700
    transformer_batch: int = 32
    judge_clips: int = 48
    judge_steps: int = 50

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "seed" else 1
            if value < least:
                raise ValueError(f"{field.name}={value}; allowed are {least} and more")
        if self.vae_batch % 2:
            raise ValueError(f"vae_batch={self.vae_batch}; allowed are even numbers")

    def stage_seed(self, stage: str) -> int:
        """A seed of its own for each stage, so that a stage gives the same whether or not others ran before it."""
        return 100 * self.seed + STAGES.index(stage)

    def upto(self, stage: str) -> dict[str, int]:
        """The settings that the checkpoint of this stage depends on: its own and those of the stages before it."""
        own = {
            "vae": ("seed", "vae_steps", "vae_batch"),
            "latents": ("clips",),
            "decoder": ("decoder_steps",),
            "transformer": ("transformer_steps", "transformer_batch"),
            "export": (),
            "judge": ("judge_clips", "judge_steps"),
        }
        # The transformer learns the latents, which the decoder's polish leaves as they are.
        before = [s for s in STAGES[: STAGES.index(stage) + 1] if not (stage == "transformer" and s == "decoder")]
        return {name: getattr(self, name) for s in before for name in own[s]}


@dataclass(frozen=True)
class Checkpoints:
    """The files of finished stages in one folder; each remembers the settings that it was made with."""

    folder: Path
    settings: Settings

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
