"""What a run is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from c4d.bundled.glyph_judge import FEATURES

STAGES = ("vae", "latents", "classifier", "transformer", "export", "judge")
LEAST = {"seed": 0, "judge_pictures": FEATURES + 1}  # of others 1; a Fréchet distance needs so many pictures


@dataclass(frozen=True)
class Settings:
    """Everything that a result depends on, besides the thread count (which moves rounding)."""

    seed: int = 0
    vae_steps: int = 3200
    vae_batch: int = 32
    pictures: int = 40960  # whose latents the transformer learns
    classifier_steps: int = 2000
    classifier_batch: int = 64
    transformer_steps: int = 11500
    transformer_batch: int = 64
    judge_pictures: int = 520  # of each kind
    judge_steps: int = 50

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 1)
            if value < least:
                raise ValueError(f"{field.name}={value}; allowed are {least} and more")

    def stage_seed(self, stage: str) -> int:
        """A seed of its own for each stage, so that a stage gives the same whether or not others ran before it."""
        return 100 * self.seed + 10 + STAGES.index(stage)

    def upto(self, stage: str) -> dict[str, int]:
        """The settings that the checkpoint of this stage depends on: its own and those of the stages before it."""
        own = {
            "vae": ("vae_steps", "vae_batch"),
            "latents": ("pictures",),
            "classifier": ("classifier_steps", "classifier_batch"),
            "transformer": ("transformer_steps", "transformer_batch"),
            "export": (),
            "judge": ("judge_pictures", "judge_steps"),
        }
        before = {"latents": ("vae",), "transformer": ("vae", "latents")}.get(stage, ())
        return {"seed": self.seed} | {name: getattr(self, name) for s in (*before, stage) for name in own[s]}
