"""Distils a causal few-step student from a text-to-video teacher: every stage, then OUT/pipe and its scores.

    python -m tools.train_causal OUT
    accelerate launch -m tools.train_causal OUT --teacher … --prompts FILE --stage self-forcing

Stages: trajectories, ode, self-forcing, teacher-forcing (which is there to be compared with), export, judge. A
finished stage is kept in OUT and not done again; with --stage only that one runs. A training that was interrupted goes
on from its last snapshot (OUT/STAGE.now). What comes out are the pipelines OUT/pipe-STAGE. Several processes of
accelerate have a batch each. The result depends on the arguments, the versions of the libraries, the number of
processes and, through rounding, on the thread count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tools.training.checkpoints import Checkpoints
from tools.training.command import recipe

from .distil import train_distil
from .export import STUDENTS, export, judge
from .ode import train_ode
from .settings import STAGES, Settings
from .teacher import Teacher, make_trajectories


def main(arguments: Sequence[str] | None = None) -> None:
    recipe("train_causal", __doc__, Settings, STAGES, run, arguments, threads=1)


def run(out: Path, settings: Settings, stages: Sequence[str] = STAGES) -> None:
    """Runs the stages in order. Raises ValueError when one needs a checkpoint that is missing or has other settings."""
    out.mkdir(parents=True, exist_ok=True)
    accelerator, kept = Accelerator(), Checkpoints(out, settings)
    teacher = Teacher(settings, accelerator)

    def once(stage: str, make: Callable[[], Any]) -> None:
        """All processes make it, and the first one writes it."""
        if stage not in stages:
            return
        if kept.path(stage).exists() or accelerator.num_processes == 1:
            kept.once(stage, make)
        else:
            content = make()
            if accelerator.is_main_process:
                kept.save(stage, content)
            accelerator.wait_for_everyone()

    once("trajectories", lambda: make_trajectories(settings, teacher, accelerator))
    once("ode", lambda: train_ode(settings, teacher, accelerator, kept.load("trajectories"), out / "ode.now"))
    for stage in ("self-forcing", "teacher-forcing"):
        once(
            stage,
            lambda stage=stage: train_distil(
                settings,
                teacher,
                accelerator,
                kept.load("trajectories"),
                kept.load("ode"),
                out / f"{stage}.now",
                stage=stage,
            ),
        )
    # Export and judge take minutes and always run: their outputs are plain files that say nothing of the settings.
    finished = [name for name in STUDENTS if kept.path(name).exists()]
    if not finished and {"export", "judge"} & set(stages):
        raise ValueError(f"no student in {out} is trained; run stage {STUDENTS[0]!r} first")
    if "export" in stages and accelerator.is_main_process:
        for name in finished:
            export(out / f"pipe-{name}", settings, teacher, kept.load(name))
    if "judge" in stages and accelerator.is_main_process:
        judge(out, settings, finished)


if __name__ == "__main__":
    main()
