"""What a run is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from c4d.bundled import TRAIN, caption
from c4d.causal.rollout import RolloutConfig

STAGES = ("trajectories", "ode", "self-forcing", "teacher-forcing", "export", "judge")
FROM_ZERO = ("seed", "window", "sink", "lora")


@dataclass(frozen=True)
class Settings:
    """Everything that a result depends on, besides the number of threads and processes. The defaults are wan-tiny's.

    ``teacher``: a bundled model, a diffusers directory or a hub id; ``prompts``: a file with one a line (""): the
    captions that wan-tiny was trained on). ``window`` 0: none. ``steps``: the student's timesteps before the ``shift``.
    ``lora``: rank of the adapters that are trained in the place of all weights, 0 for these. Batches are of each
    process.
    """

    seed: int = 0
    teacher: str = "wan-tiny"
    prompts: str = ""
    height: int = 32
    width: int = 32
    frames: int = 13
    text: int = 16
    fps: int = 8
    guidance: float = 4.0
    block: int = 1
    window: int = 3
    sink: int = 0
    steps: str = "1000,750,500,250"
    shift: float = 3.0
    clips: int = 640
    trajectory_batch: int = 32
    trajectory_steps: int = 12
    lora: int = 0
    ode_steps: int = 450
    ode_batch: int = 16
    ode_rate: float = 5e-4
    distil_steps: int = 350
    distil_batch: int = 8
    distil_rate: float = 1.5e-4
    critic_rate: float = 3e-4
    critic_updates: int = 2
    judge_clips: int = 48

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise ValueError(f"{field.name}={value}; it has to be above 0")
            if isinstance(value, int) and value < (least := int(field.name not in FROM_ZERO)):
                raise ValueError(f"{field.name}={value}; allowed are {least} and more")
        _ = self.rollout  # which raises for what it cannot be

    @property
    def rollout(self) -> RolloutConfig:
        """How the student rolls out. Raises ValueError for what cannot be."""
        return RolloutConfig(
            block=self.block,
            window=self.window or None,
            sink=self.sink,
            steps=tuple(float(t) for t in self.steps.split(",")),
            shift=self.shift,
            fps=self.fps,
            height=self.height,
            width=self.width,
            text=self.text,
        )

    def lines(self) -> list[str]:
        """The prompts. Raises ValueError for a file that is not there, or has none."""
        if not self.prompts:
            return [caption(a) for a in TRAIN]
        file = Path(self.prompts)
        found = [line.strip() for line in file.read_text().splitlines()] if file.is_file() else []
        if not any(found):
            raise ValueError(f"prompts={self.prompts}; allowed is a text file with one prompt a line")
        return [line for line in found if line]

    def stage_seed(self, stage: str) -> int:
        """A seed of its own for each stage, so that a stage gives the same whether or not others ran before it."""
        return 100 * self.seed + STAGES.index(stage)

    def upto(self, stage: str) -> dict[str, int | float | str]:
        """The settings that the checkpoint of this stage depends on: its own and those of the stages before it."""
        fields = [field.name for field in dataclasses.fields(self)]
        if stage in ("trajectories", "ode"):
            fields = [name for name in fields if not name.startswith(("distil_", "critic_"))]
        if stage == "trajectories":
            only = ("block", "window", "sink", "lora")  # the student's
            fields = [name for name in fields if not name.startswith("ode_") and name not in only]
        return {name: getattr(self, name) for name in fields if name != "judge_clips"}
