"""Stages export and judge: each trained student as a pipeline's folder, and what the judge says of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bench import causal
from tools.training.folder import TOKENIZER_CLASS, save

from .settings import Settings
from .student import Student
from .teacher import Teacher

STUDENTS = ("self-forcing", "teacher-forcing", "ode")


def export(folder: Path, settings: Settings, teacher: Teacher, trained: dict[str, Tensor]) -> None:
    """Writes the teacher's pipeline with the student in its place, and ``rollout.json``."""
    pipe, before = teacher.pipe, teacher.transformer
    transformer = Student(before, settings, trained).transformer
    if settings.lora:
        transformer.fuse_lora()
        transformer.unload_lora()
    renamed = type(pipe.tokenizer).__name__ in (TOKENIZER_CLASS, "TokenizersBackend")  # as transformers 5 calls it
    try:
        pipe.transformer = transformer.eval()
        save(pipe, folder, tokenizers=["tokenizer"] if renamed else [])
    finally:
        pipe.transformer = before
    settings.rollout.save(folder)


def judge(out: Path, settings: Settings, students: Sequence[str]) -> None:
    """Writes OUT/judge.md and its contact sheets (:mod:`bench.causal`)."""
    if settings.prompts or settings.teacher != "wan-tiny":
        raise ValueError(
            f"the judge reads clips of wan-tiny's prompts alone, not of teacher={settings.teacher} and "
            f"prompts={settings.prompts or 'those of wan-tiny'}; look at what c4d.rollout makes of {out}/pipe-…"
        )
    arms = [f"{name}={out / f'pipe-{name}'}" for name in students]
    arguments = ["--students", *arms, "--out", str(out), "--clips", str(settings.judge_clips)]
    print(f"python -m bench.causal {shlex.join(arguments)}", flush=True)
    causal.main(arguments)
