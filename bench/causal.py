"""Causal students of wan-tiny beside their teacher, and what becomes of a clip that is four times as long.

    python -m bench.causal
    python -m bench.causal --students self-forcing=OUT/pipe-self-forcing ode=OUT/pipe-ode

Rolls out 48 held-out prompts and 48 seen ones, has the judge read them, and writes judge.md with two contact sheets.
Long clips are judged 13 frames at a time; those of the first student with other windows, too.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import c4d
from bench.stamp import ROOT, stamp
from c4d.bundled import FRAMES, Adherence, adherence, caption, evaluation_set, generate, judge, roll_out
from c4d.causal.rollout import config_of
from c4d.metrics import contact_sheet

SETS = (("held_out", "held out"), ("seen", "seen"))
# Steps and guidance of the teacher: as it is used, then about what a student costs.
TEACHER = ((50, 4.0), (4, 4.0), (3, 4.0), (2, 4.0), (5, 1.0))
TIMES = 4  # as long as a clip of the training
# What long clips look back at, beside what the student was trained with.
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "all frames": {"window": None, "sink": 0},
    "window 4": {"window": 4, "sink": 0},
    "window 4, of which the first frame": {"window": 4, "sink": 1},
}
PARTS = ("colour", "shape", "motion", "background", "all_four")
SHEET_CLIPS = 6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.causal", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--teacher", default="wan-tiny")
    parser.add_argument("--students", nargs="+", default=["self-forcing=wan-tiny-causal"], metavar="NAME=MODEL")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements" / "causal")
    parser.add_argument("--clips", type=int, default=48, help="of each set (default 48)")
    parser.add_argument("--seed", type=int, default=0, help="is added to every noise seed (default 0)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    given = sys.argv[1:] if arguments is None else list(arguments)
    students = {name: load(model) for name, _, model in (each.partition("=") for each in options.students)}
    options.out.mkdir(parents=True, exist_ok=True)

    short, clips = short_clips(options, load(options.teacher), students)
    long, long_clips = long_ones(options, students)
    page = report(options, short, long, shlex.join(["python", "-m", "bench.causal", *given]))
    (options.out / "judge.md").write_text(page)
    labels = [caption(a) for a in shown(evaluation_set("held_out", options.clips)[0])]
    sheet(clips, labels, 4).save(options.out / "clips.png", optimize=True)
    sheet(long_clips, labels, 10).save(options.out / "long.png", optimize=True)
    print(page)


def load(model: str) -> Any:
    """The pipeline of a bundled model, or of a folder."""
    from diffusers import WanPipeline

    pipe: Any = WanPipeline.from_pretrained(model if Path(model).is_dir() else c4d.bundled_model(model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def short_clips(
    options: argparse.Namespace, teacher: Any, students: Mapping[str, Any]
) -> tuple[list[str], dict[str, Tensor]]:
    """The lines of a table, and the clips of the sheet."""
    lines, clips = list[str](), dict[str, Tensor]()
    columns = ["", "forwards", *(f"{said}: {part.replace('_', ' ')}" for _, said in SETS for part in PARTS)]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    makers = {
        f"teacher, {steps} steps, guidance {guidance:g}": (
            steps * (1 + (guidance > 1)),
            lambda asked, seeds, steps=steps, guidance=guidance: generate(
                teacher, asked, seeds, steps=steps, guidance_scale=guidance, max_sequence_length=16
            ),
        )
        for steps, guidance in TEACHER
    }
    for name, pipe in students.items():
        rollout = c4d.rollout(pipe)
        forwards = len(rollout.config.steps) + 1  # that of the finished frames
        makers[f"student, {name}"] = forwards, lambda asked, seeds, rollout=rollout: roll_out(rollout, asked, seeds)
    for name, (forwards, make) in makers.items():
        cells = list[str]()
        for of, _ in SETS:
            asked, seeds = evaluation_set(of, options.clips, seed=options.seed)
            video = make(asked, seeds)
            cells += scores(adherence(video, asked))
            if of == "held_out":
                clips[name] = shown(video)
        lines.append(f"| {name} | {forwards} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines, {name: clip for name, clip in clips.items() if not name.startswith("teacher") or "50 steps" in name}


def long_ones(options: argparse.Namespace, students: Mapping[str, Any]) -> tuple[list[str], dict[str, Tensor]]:
    """The same of long clips of held-out prompts, ``FRAMES`` frames at a time."""
    asked, seeds = evaluation_set("held_out", options.clips, seed=options.seed)
    columns = ["student", "looks back at", "frames", "an object", *(part.replace("_", " ") for part in PARTS)]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    first, clips = next(iter(students)), dict[str, Tensor]()
    for name, pipe in students.items():
        trained = config_of(pipe)
        own = f"window {trained.window}, as trained"
        for look, settings in ({own: {}} | (LOOKS if name == first else {})).items():
            video = roll_out(c4d.rollout(pipe, **settings), asked, seeds, frames=TIMES * FRAMES)
            clips[f"{name}, {look}"] = shown(video)
            for start in range(0, TIMES * FRAMES, FRAMES):
                part = video[:, :, start : start + FRAMES]
                there = (judge(part).predicted[:, 0] >= 0).float().mean()
                cells = [f"{there:.3f}", *scores(adherence(part, asked))]
                lines.append(f"| {name} | {look} | {start} to {start + FRAMES - 1} | " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    return lines, {name: clip for name, clip in clips.items() if name.startswith(f"{first}, ")}


def scores(found: Adherence) -> list[str]:
    return [f"{getattr(found, part):.3f}" for part in PARTS]


def report(options: argparse.Namespace, short: Sequence[str], long: Sequence[str], command: str) -> str:
    seeds = ", ".join(f"{said} from {evaluation_set(of, 1, seed=options.seed)[1][0]}" for of, said in SETS)
    return "\n".join(
        [
            "# Causal students of wan-tiny, judged",
            "",
            f"Fractions of {options.clips} clips in which the judge (`c4d/bundled/judge.py`) sees what the prompt asks "
            f"for: 13 frames of 32x32, one noise generator a clip ({seeds}). Forwards are those that each frame of "
            "latents goes through. A student goes block by block; its last forward is that of the finished block.",
            "",
            *short,
            "",
            f"Clips of {TIMES * FRAMES} frames of held-out prompts, each part of them judged as a clip of its own:",
            "",
            *long,
            "",
            "Contact sheets: clips.png, long.png.",
            "",
            *stamp(command, options.threads),
            "",
        ]
    )


def shown(clips: Any) -> Any:
    """A few clips of a sequence of clips or attributes, at a stride that is out of step with their order."""
    return clips[:: max(1, len(clips) // SHEET_CLIPS - 1)][:SHEET_CLIPS]


def sheet(clips: Mapping[str, Tensor], labels: Sequence[str], frames: int) -> Any:
    return contact_sheet(list(clips.values()), labels, titles=list(clips), frames=frames, frame_height=48)


if __name__ == "__main__":
    main()
