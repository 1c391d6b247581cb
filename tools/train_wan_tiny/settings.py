"""What a run is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

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
