"""What a run is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

STAGES = ("vae", "latents", "transformer", "distil", "export", "judge")


@dataclass(frozen=True)
class Settings:
    """Everything that a result depends on, besides the thread count (which moves rounding)."""

    seed: int = 0
    vae_steps: int = 1300
    vae_batch: int = 16
    pictures: int = 40960
    transformer_steps: int = 11100
    transformer_batch: int = 48
    distil_steps: int = 250
    distil_batch: int = 48
    judge_pictures: int = 96
    judge_steps: int = 50

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "seed" else 1
            if value < least:
                raise ValueError(f"{field.name}={value}; allowed are {least} and more")
        if self.judge_pictures % 4:
            raise ValueError(f"judge_pictures={self.judge_pictures}; allowed are multiples of 4, one for each task")

    def stage_seed(self, stage: str) -> int:
        """A seed of its own for each stage, so that a stage gives the same whether or not others ran before it."""
        return 100 * self.seed + STAGES.index(stage)

    def upto(self, stage: str) -> dict[str, int]:
        """The settings that the checkpoint of this stage depends on: its own and those of the stages before it."""
        own = {
            "vae": ("seed", "vae_steps", "vae_batch"),
            "latents": ("pictures",),
            "transformer": ("transformer_steps", "transformer_batch"),
            "distil": ("distil_steps", "distil_batch"),
            "export": (),
            "judge": ("judge_pictures", "judge_steps"),
        }
        return {name: getattr(self, name) for s in STAGES[: STAGES.index(stage) + 1] for name in own[s]}
