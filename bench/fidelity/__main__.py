"""Closeness to the uncached run against the blocks computed: c4d's methods, the peers' own, and fewer plain steps.

    python -m bench.fidelity [--clips 48] [--steps 50] [--samplers unipc euler] [--only REGEX] [--render]

Paired clips of the bundled model, half of combinations never seen in training. A finished case is kept in
docs/measurements/fidelity/results.json, so an interrupted run goes on where it stopped; --render writes table, plot
and pictures again without measuring. The pictures' clips stay in out/fidelity.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import peers
from bench.clips import GUIDANCE, LENGTH, paired, pipeline, unmeasured
from bench.fidelity import cases, cost, equal, others, page, plot
from bench.fidelity.results import Measured, Results
from bench.learned import Learned
from bench.stamp import ROOT, stamp
from c4d.bundled import as_tensor, generate, judge
from c4d.metrics import psnr, ssim

BATCH = 24
SHOWN = (0, 13, 30)  # clips of the pictures


class Bench:
    """A pipeline at one sampler, its clips and its uncached run."""

    def __init__(self, pipe: Any, sampler: str, clips: int, steps: int) -> None:
        cases.use_sampler(pipe, sampler)
        self.pipe, self.sampler, self.steps = pipe, sampler, steps
        self.attributes, self.seeds = paired(clips)
        self.parts: dict[str, float] = {}
        self.parts = cost.shares(pipe.transformer, lambda: self.clips(cases.plain(2), 1))
        self.uncached, self.rows, self.entered = self.clips(cases.uncached(steps))

    def clips(self, case: cases.Case, count: int | None = None) -> tuple[torch.Tensor, list[float], list[float]]:
        """The clips of a case and the rows of each; the system is reset before every batch, as it asks."""
        attributes, seeds = self.attributes[:count], self.seeds[:count]
        videos, rows, entered = [], [], []
        with case.open(self.pipe) as begin:
            for start in range(0, len(seeds), BATCH):
                part = slice(start, start + BATCH)
                begin()
                with cost.Rows(self.pipe.transformer, self.parts) as counted:
                    videos.append(run(self.pipe, attributes[part], seeds[part], case.steps))
                size = len(videos[-1])
                rows += [counted.computed / size] * size
                entered += [counted.entered / size] * size
        return torch.cat(videos), rows, entered

    def measure(self, case: cases.Case, keep: Path) -> Measured:
        if case.system == "uncached":
            videos, rows, entered = self.uncached, self.rows, self.entered
        else:
            videos, rows, entered = self.clips(case)
        asked = as_tensor(self.attributes)
        keep.mkdir(parents=True, exist_ok=True)
        torch.save((videos[[n for n in SHOWN if n < len(videos)]] * 255).round().byte(), keep / plot.file_name(case))
        return Measured(
            self.sampler,
            case.system,
            case.method,
            case.setting,
            case.steps,
            psnr=[round(x, 3) for x in psnr(videos, self.uncached).tolist()],
            ssim=[round(x, 6) for x in ssim(videos, self.uncached).tolist()],
            adheres=(judge(videos).predicted == asked).all(1).int().tolist(),
            rows=[round(x, 3) for x in rows],
            entered=[round(x, 3) for x in entered],
        )


def run(pipe: Any, attributes: Any, seeds: Any, steps: int) -> torch.Tensor:
    return generate(pipe, attributes, seeds, steps=steps, guidance_scale=GUIDANCE, max_sequence_length=LENGTH)


def measure(options: argparse.Namespace, results: Results, command: str) -> None:
    """Every case that is not there yet, written as soon as it is done."""
    pipe = pipeline()
    stamped = [*stamp(command, options.threads), f"- Peers: {peers.versions()}"]
    if stamped not in results.stamps:
        results.stamps.append(stamped)
    if "equal" not in results.facts and options.equal_clips:
        cases.use_sampler(pipe, options.samplers[0])
        results.facts["equal"] = equal.compare(pipe, options.samplers[0], options.equal_clips, options.steps)
        results.save()
    for sampler in options.samplers:
        bench = Bench(pipe, sampler, options.clips, options.steps)
        results.facts["shares"] = bench.parts
        calibrate = functools.cache(lambda: calibrated(pipe, options.steps))
        learned = Learned(pipe, partial(unmeasured, pipe, options.steps, 4), options.pictures / sampler)
        todo = [cases.uncached(options.steps), *(cases.plain(n) for n in cases.PLAIN if n < options.steps)]
        todo += [
            *cases.ours(options.steps, learned.path),
            *others.cache_dit(options.steps),
            *others.diffusers(options.steps, calibrate),
        ]
        for case in todo:
            asked = case.system in ("uncached", "plain") or re.search(options.only, case.name)
            if not asked or results.has(sampler, case.name):
                continue
            started = time.perf_counter()
            done = bench.measure(case, options.pictures / sampler)
            results.cases.append(done)
            results.save()
            seconds = time.perf_counter() - started
            print(f"{sampler} {case.name:70} {done.cost:6.1f} {done.quality:6.2f} dB {seconds:5.1f} s", flush=True)


def calibrated(pipe: Any, steps: int) -> list[float]:
    """MagCache's ratios from four clips under seeds that are not measured."""
    attributes, seeds = paired(4)
    return others.mag_ratios(pipe, steps, lambda: run(pipe, attributes, [seed + 100_000 for seed in seeds], steps))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samplers", nargs="+", choices=cases.SAMPLERS, default=list(cases.SAMPLERS))
    parser.add_argument(
        "--only", default="", help="besides uncached and plain, measure only the cases whose name this expression finds"
    )
    parser.add_argument("--equal-clips", type=int, default=4, help="of the equal schedules; 0: leave them out")
    parser.add_argument("--render", action="store_true", help="write page, plot and pictures; measure nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/measurements/fidelity")
    parser.add_argument("--pictures", type=Path, default=ROOT / "out/fidelity")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    if options.render:
        results = Results.load(path)
    else:
        setting = {"clips": options.clips, "steps": options.steps, "guidance": GUIDANCE, "length": LENGTH}
        results = Results.load(path, {**setting, "batch": BATCH})
        measure(options, results, shlex.join(["python", "-m", "bench.fidelity", *sys.argv[1:]]))
    pictures = plot.draw(results, options.out, options.pictures)
    (options.out / "README.md").write_text(page.write(results, pictures))
    print(f"written: {options.out}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
