"""Does the bundled model tell methods apart? Taylor order 1 against order 0, early full steps against late ones.

    python -m bench.separation [--clips 48] [--steps 50] [--length 16] [--threads 1]

Paired clips: the same prompts and seeds in every row, half of the combinations never seen in training. PSNR is that of
the decoded clip to the uncached one. Writes docs/measurements/wan-tiny/separation.md and fails (exit 1) if order 1 does
not beat order 0 on two thirds of the clips at intervals 2 to 4.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

import c4d
from bench.clips import GUIDANCE, LENGTH, paired, pipeline
from bench.stamp import ROOT, stamp
from c4d.bundled.evaluation import generate
from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, CacheMethod
from c4d.metrics.fidelity import psnr


def method(computed: set[int], order: int, name: str) -> CacheMethod:
    """Exactly these steps, the stack's output forecast by Taylor of that order (TaylorSeer-Lite before the head)."""
    return CacheMethod(name, (BlocksRule(StepMask(frozenset(computed)), Taylor(order), residual=False),))


def schedules(steps: int) -> dict[str, set[int]]:
    """Intervals after three computed steps, with the last; and five extra steps early, in the middle, late."""
    rows = {f"interval {n}": {0, 1, 2, *range(2, steps, n), steps - 1} for n in (2, 3, 4)}
    base = {*range(0, steps, 5), steps - 1}
    rows["every 5th"] = base
    rows["every 5th + 5 early"] = base | {1, 2, 3, 4, 6}
    rows["every 5th + 5 middle"] = base | {n for n in range(steps // 2 - 4, steps // 2 + 6) if n % 5} - {21, 22, 28}
    rows["every 5th + 5 late"] = base | {steps - 9, steps - 8, steps - 4, steps - 3, steps - 2}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--length", type=int, default=LENGTH, help="max_sequence_length of the prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/measurements/wan-tiny/separation.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = pipeline()
    attributes, seeds = paired(options.clips)

    def clips(cache: CacheMethod | None) -> torch.Tensor:
        setting = {"steps": options.steps, "guidance_scale": GUIDANCE, "max_sequence_length": options.length}
        if cache is None:
            return generate(pipe, attributes, seeds, **setting)
        with c4d.cached(pipe, cache):
            return generate(pipe, attributes, seeds, **setting)

    uncached = clips(None)
    scores: dict[tuple[str, int], torch.Tensor] = {}
    full: dict[str, int] = {}
    for name, computed in schedules(options.steps).items():
        full[name] = len(computed)
        for order in (0, 1):
            scores[name, order] = psnr(clips(method(computed, order, f"{name}, order {order}")), uncached)
            print(f"{name:22} order {order}: {scores[name, order].mean():.2f} dB", flush=True)

    lines = [
        "# Does wan-tiny separate methods?",
        "",
        "The hidden state after the blocks, held (order 0) or forecast by TaylorSeer's formula (order 1); UniPC, "
        f"guidance {GUIDANCE}; PSNR in dB to the uncached clip, mean / worst of {options.clips} paired clips, half of "
        "them of combinations never seen in training.",
        "",
        "| computed steps | of them | order 0 | order 1 | order 1 better on |",
        "|---|---|---|---|---|",
    ]
    failed = []
    for name, count in full.items():
        low, high = scores[name, 0], scores[name, 1]
        wins = int((high > low).sum())
        lines.append(
            f"| {name} | {count} of {options.steps} | {low.mean():.2f} / {low.min():.2f} | "
            f"{high.mean():.2f} / {high.min():.2f} | {wins} of {options.clips} |"
        )
        if name.startswith("interval") and 3 * wins < 2 * options.clips:
            failed.append(name)
    verdict = []
    for order in (0, 1):
        early, late = scores["every 5th + 5 early", order], scores["every 5th + 5 late", order]
        verdict.append(
            f"order {order}: early above late on {int((early > late).sum())} of {options.clips} clips "
            f"({early.mean():.2f} against {late.mean():.2f} dB)"
        )
    lines += [
        "",
        "Order 1 above order 0 on at least two thirds of the clips at intervals 2 to 4: "
        + (f"**no, not at {', '.join(failed)}**." if failed else "yes."),
        "",
        f"Five extra computed steps early or late: {'; '.join(verdict)}.",
        "",
        *stamp(shlex.join(["python", "-m", "bench.separation", *sys.argv[1:]]), options.threads),
    ]
    options.out.write_text("\n".join(lines) + "\n")
    print(f"written: {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
