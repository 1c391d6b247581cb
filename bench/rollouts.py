"""How soon a rollout shows something, and how fast it goes on: ``python -m bench.rollouts``.

The student makes a clip block by block, and as one block (all frames at once, in as many steps); its teacher makes it
at once, with guidance and its many steps. Medians of interleaved rounds on one thread of the CPU, with the decoding.
Seconds are of this machine; the ratios, the forwards and the bytes are what to look at.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import c4d
from bench.stamp import stamp
from c4d.bundled import BUNDLED, FRAMES, evaluation_set, roll_out
from c4d.causal.rollout import config_of
from c4d.metrics import psnr

PAGE = Path(__file__).parent.parent / "docs/measurements/causal/speed.md"
PROMPT = "a red circle moving left on a black background"
TEACHER = "wan-tiny"
STEPS = 50
UNTAUGHT: dict[str, Any] = {"block": 2, "guidance": 4.0, "text": 16}
METHODS = ("auto", "taylorseer-lite:interval=2,last=1", "first-block:threshold=0.1")


@dataclass
class Timed:
    """Seconds until the first frames are there and until all are, frames a second between; bytes held, forwards."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    held: int = 0
    forwards: int = 0

    def row(self, name: str) -> str:
        first, whole = (statistics.median(times) for times in (self.first, self.whole))
        rate = f"{statistics.median(self.rate):.1f}" if self.rate else ""
        held = f"{self.held / 1e6:.2f}" if self.held else ""
        return f"| {name} | {first:.2f} | {rate} | {whole:.2f} | {self.forwards} | {held} |"


def streamed(pipe: Any, frames: int, into: Timed, **settings: Any) -> None:
    start, times, counts = time.perf_counter(), list[float](), list[int]()
    stream = c4d.rollout(pipe, **settings)(PROMPT, frames=frames, generator=torch.Generator().manual_seed(0))
    for block in stream:
        times.append(time.perf_counter() - start)
        counts.append(block.shape[1])
        into.held = max(into.held, stream.bytes())
    into.first.append(times[0])
    into.whole.append(times[-1])
    if len(times) > 1:
        into.rate.append(sum(counts[1:]) / (times[-1] - times[0]))


def at_once(pipe: Any, frames: int, text: int, into: Timed) -> None:
    known, start = BUNDLED[TEACHER].defaults, time.perf_counter()
    how: dict[str, Any] = {"height": known.height, "width": known.width, "max_sequence_length": text}
    how |= {"num_inference_steps": known.steps, "guidance_scale": known.guidance_scale, "output_type": "pt"}
    pipe(PROMPT, num_frames=frames, generator=torch.Generator().manual_seed(0), **how)
    into.first.append(time.perf_counter() - start)
    into.whole.append(into.first[-1])


def measured(student: Any, teacher: Any, frames: int, rounds: int) -> dict[str, Timed]:
    config = config_of(student)
    latents = 1 + -(-(frames - 1) // student.vae_scale_factor_temporal)
    whole = {"block": latents, "alone": False, "window": None, "sink": 0}
    runs: dict[str, tuple[Any, Callable[[Timed], None]]] = {
        "block by block": (student, lambda into: streamed(student, frames, into)),
        "as one block": (student, lambda into: streamed(student, frames, into, **whole)),
        "the teacher, at once": (teacher, lambda into: at_once(teacher, frames, config.text, into)),
    }
    found = {name: Timed() for name in runs}
    for number in range(rounds + 1):
        for name, (pipe, run) in runs.items():
            into, entered = (found if number else {name: Timed()})[name], list[int]()  # the first round warms up
            hook = pipe.transformer.register_forward_pre_hook(lambda *_, entered=entered: entered.append(1))
            run(into)
            hook.remove()
            into.forwards = len(entered)
    return found


def cached_blocks(teacher: Any, clips: int) -> list[str]:
    """Rows: how close a cache inside each block stays to the rollout without one, beside as many plain steps."""
    prompts, seeds = evaluation_set("held_out", clips)

    def made(steps: int, method: str | None = None) -> tuple[Tensor, float]:
        rollout = c4d.rollout(teacher, steps=steps, **UNTAUGHT)
        with nullcontext() if method is None else c4d.cached(teacher, method, traced_runs=None) as session:
            clips = roll_out(rollout, prompts, seeds, frames=FRAMES, batch_size=1)
        return clips, statistics.mean(entry.computed for entry in session.trace) if session is not None else 1.0

    want, _ = made(STEPS)

    def row(name: str, found: Tensor, steps: int) -> str:
        close = psnr(found, want)
        return f"| {name} | {steps} | {close.mean():.1f} | {close.min():.1f} |"

    rows = []
    for method in METHODS:
        found, share = made(STEPS, method)
        steps = round(share * STEPS)
        rows += [row(f"`{method}`", found, steps), row(f"{steps} plain steps", made(steps)[0], steps)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rollouts", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default=c4d.bundled_model("wan-tiny-causal"), help="folder of the student")
    parser.add_argument("--frames", type=int, nargs="+", default=[13, 49])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8, help="of the cache inside blocks")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    student: Any = DiffusionPipeline.from_pretrained(given.model)
    teacher: Any = DiffusionPipeline.from_pretrained(c4d.bundled_model(TEACHER))
    for pipe in (student, teacher):
        pipe.set_progress_bar_config(disable=True)
    page = [
        "# Delay and speed of a rollout",
        "",
        (__doc__ or "").split("\n\n")[1].strip().replace("\n", " "),
        "",
        *stamp(shlex.join(["python", "-m", "bench.rollouts", *sys.argv[1:]]), 1),
        f"- Rounds: {given.rounds}, interleaved, after one that warms up; seconds are medians",
    ]
    for frames in given.frames:
        page += ["", f"## {frames} frames", ""]
        page += ["| made | first frames after, s | frames a second behind them | all after, s | forwards | MB held |"]
        page += ["|---|---|---|---|---|---|"]
        page += [into.row(name) for name, into in measured(student, teacher, frames, given.rounds).items()]
    page += [
        "",
        "A forward of a block has the block's tokens alone, one of the others all of the clip's; the teacher's come in "
        "pairs, one for each branch of guidance. MB held: keys and values, and what the decoder keeps between blocks.",
        "",
    ]
    page += ["## A cache inside each block", ""]
    page += [
        "The teacher, which was never taught to see the past alone, rolls out with guidance and "
        f"{STEPS} UniPC steps a block of two latent frames: {given.clips} held-out clips of {FRAMES} frames, PSNR in "
        "dB to the same rollout without a cache. Every block is a run of its own; the pass that writes its keys and "
        "values is always computed. `auto` is the model's profile, made on whole clips.",
        "",
        "| in each block | steps computed | PSNR, mean | worst |",
        "|---|---|---|---|",
        *cached_blocks(teacher, given.clips),
        "",
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(page))
    print("\n".join(page))


if __name__ == "__main__":
    main()
