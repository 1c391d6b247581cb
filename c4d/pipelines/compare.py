"""Clips made in turns, what they cost, and how close they are to each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from c4d.backends import Backend
from c4d.core.runtime.report import Report
from c4d.metrics import psnr, ssim
from c4d.parallel.session import Parallel
from c4d.pipelines.arguments import effective
from c4d.pipelines.flops import Flops
from c4d.pipelines.generate import Clip, Stepped, generate
from c4d.pipelines.load import parse_history_dtype
from c4d.pipelines.request import Request
from c4d.pipelines.settings import Settings
from c4d.pipelines.why import fractions

SMALLEST_SSIM = 7  # pixels of its window


@dataclass(frozen=True)
class Made:
    """Kind ("cached", "uncached", "fewer_steps") -> first timed clip, and seconds and phases of all timed ones.

    ``fewer_steps`` is how many steps that kind has, None if it was not made; ``repeatable`` says whether all repeats of
    a kind gave equal clips, ``warm`` whether an untimed round came first.
    """

    clips: Mapping[str, Clip]
    seconds: Mapping[str, list[float]]
    phases: Mapping[str, list[Mapping[str, float]]]
    fewer_steps: int | None
    repeatable: bool
    warm: bool


def run_interleaved(
    pipe: Any,
    request: Request,
    settings: Settings,
    *,
    backend: Backend,
    progress: bool,
    ranks: Parallel | None = None,
    on_step: Callable[[Stepped], None] | None = None,
) -> Made:
    """Makes every kind of ``settings`` ``repeats`` times, in turns, every other round backwards.

    With ``settings.warm_up`` an untimed round comes first. The kind "fewer_steps" is an uncached generation with as
    many steps as cost what the cached one cost: in FLOPs, which the untimed round counts, else in what the report
    tells. It is left out where the cache saved nothing. ``ranks``: those that share the pipeline, all of which call
    this. ``on_step`` is told of the steps of each clip.
    """
    clips: dict[str, Clip] = {}
    flops: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    phases: dict[str, list[Mapping[str, float]]] = {}
    repeatable, steps, report, n = True, None, None, settings.repeats
    for turn in range(-1 if settings.warm_up else 0, n):
        label = " warm-up" if turn < 0 else f" {turn + 1}/{n}" if n > 1 else ""
        for kind in settings.kinds[::-1] if turn > 0 and turn % 2 else settings.kinds:
            if kind == "fewer_steps" and steps is None:
                total = effective(pipe, request)["num_inference_steps"]
                steps = _equal_steps(report, flops, total, ranks)
            if kind == "fewer_steps" and steps is None:
                continue
            # Counting breaks the graphs that a compiled round is there to make.
            counter = Flops(pipe) if turn < 0 and not settings.compile else None
            with counter or nullcontext():
                clip = generate(
                    pipe,
                    replace(request, steps=steps) if kind == "fewer_steps" else request,
                    method=settings.cache if kind == "cached" else None,
                    backend=backend,
                    progress=progress,
                    ranks=ranks,
                    history_dtype=parse_history_dtype(settings.history_dtype) if settings.history_dtype else None,
                    history_on=settings.history_on,
                    label=kind.replace("_", " ") + label,
                    on_step=on_step,
                )
            if kind == "cached":
                report = clip.report
            if counter is not None:
                flops[kind] = counter.count
            if turn >= 0:
                seconds.setdefault(kind, []).append(clip.seconds)
                phases.setdefault(kind, []).append(clip.phases)
                repeatable &= torch.equal(clips.setdefault(kind, clip).frames, clip.frames)
    return Made(clips, seconds, phases, steps, repeatable, settings.warm_up)


def work(report: Mapping[str, Any]) -> dict[str, Any]:
    """What was computed of what: the calls of cached modules for a method inside the blocks, else the blocks, or the
    forwards of a model whose blocks are not described.

    Modules are called in blocks that are entered; those of blocks that were skipped whole (DuCa's) count as well."""
    if report["modules_total"]:
        done, total = report["modules_total"] - report["modules_reused"], report["modules_total"]
        if report["blocks_entered"]:
            total = round(total * report["blocks_total"] / report["blocks_entered"])
        what = "attention and MLP calls"
    elif report["blocks_total"]:
        done, total, what = report["blocks_entered"], report["blocks_total"], "blocks"
    else:
        done, total, what = report["computed"], report["computed"] + report["reused"], "forwards"
    return {"what": what, "done": done, "total": total, "ratio": total / done if done else None}


def timing(made: Made) -> dict[str, Any]:
    """Seconds and phases of each kind, their medians, the ratio of medians uncached / cached, how they were taken."""
    middle = {kind: median(values) for kind, values in made.seconds.items()}
    phases = {kind: {name: median(run[name] for run in runs) for name in runs[0]} for kind, runs in made.phases.items()}
    repeats, several = len(next(iter(made.seconds.values()))), len(middle) > 1
    if repeats > 1:
        how = f"medians of {repeats} runs{' of each kind, in turns' if several else ''}, after a warm-up"
    else:
        order = "" if made.warm or not several else ", the cached one first, so that one-time costs count against it"
        how = f"one run{' of each kind' if several else ''} {'after' if made.warm else 'without'} a warm-up{order}"
        how += "; an impression (--repeats 5 measures)"
    how += ": seconds of a whole generation"
    return {
        "repeats": repeats,
        "how": how,
        "seconds": dict(made.seconds),
        "median": middle,
        "phases": phases,
        "fractions": {kind: fractions(parts) for kind, parts in phases.items()},
        "speedup": middle["uncached"] / middle["cached"] if several else None,
        "repeatable": made.repeatable if repeats > 1 else None,
    }


def fidelity(frames: Tensor, reference: Tensor) -> dict[str, Any]:
    """Of two clips [T, 3, H, W]: psnr_db (None where infinite: identical), ssim (None for frames below its window)."""
    one, other = frames.transpose(0, 1)[None], reference.transpose(0, 1)[None]
    decibels = psnr(one, other).item()
    return {
        "identical": torch.equal(one, other),
        "psnr_db": decibels if math.isfinite(decibels) else None,
        "ssim": ssim(one, other).item() if min(one.shape[-2:]) >= SMALLEST_SSIM else None,
    }


def difference(a: Tensor, b: Tensor, gain: float = 8.0) -> Tensor:
    """|a - b| x gain in [0, 1]: what the eye would miss."""
    return ((a - b).abs() * gain).clamp(0, 1)


def _equal_steps(cached: Report | None, flops: Mapping[str, int], steps: int, ranks: Parallel | None) -> int | None:
    """How many of ``steps`` plain steps cost what ``cached`` cost; None if it saved nothing.

    On several ranks the same for all: a rank may have made one branch of guidance alone, and others the other one.
    """
    assert cached is not None
    done = work(cached.to_dict())
    share = flops["cached"] / flops["uncached"] if flops.get("uncached") else done["done"] / done["total"]
    equal = max(1, round(steps * (share if ranks is None else ranks.mean(share))))
    return equal if equal < steps else None
