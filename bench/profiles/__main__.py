"""How close profiles come on the yardsticks, beside everything else of the same cost.

    python -m bench.profiles [--yardsticks wan-tiny …] [--samplers unipc euler dpm++] [--samples 48] [--render]

Of each yardstick and sampler, 50 steps: the shipped profile (made with the model's own sampler), the universal one that
was fitted without this yardstick, the package's methods tuned on the calibration prompts, fewer plain steps, and plain
steps at noise levels that were searched on the calibration prompts. A finished row is kept in
docs/measurements/profiles/results.json, so an interrupted run goes on; --render writes the page alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import c4d
from bench.profiles import page, plain
from bench.stamp import stamp
from bench.yardsticks import FOLDER, HELD, Yardstick
from c4d.core.caching.profiles import named
from c4d.metrics import psnr
from tools.make_profiles import SEED

STEPS = 50
COMPUTED = (20, 17, 14, 12, 10, 8, 6)
SAMPLERS = ("unipc", "euler", "dpm++")
LEARNING = 8  # calibration prompts that the other methods are tuned on


def grid(steps: int) -> Iterator[str]:
    """Settings of the package's methods, from which each takes its best for a cost."""
    for every in (2, 3, 4, 5, 6, 8):
        for order in (0, 1, 2):
            yield f"taylorseer-lite:interval={every},order={order},last=1"
        yield f"taylorseer-lite:interval={every},order=1,last=1@blocks"
        yield f"taylorseer-lite:interval={every}+hermite:order=1,scale=0.5@blocks"
        yield f"hicache:interval={every},warmup=2"
        yield f"foca:interval={every},warmup=2"
        yield f"dmd:interval={every}"
        yield f"freqca:interval={every}"
        yield f"fora:interval={every}"
        yield f"seacache:threshold=1.0,max_skips={every - 1}"
    for threshold in (0.1, 0.15, 0.2, 0.3, 0.5):
        for signal in ("time_embedding", "modulated_input"):
            yield f"teacache:threshold={threshold},coefficients=1/0,signal={signal},warmup=3+taylor:order=1"
        yield f"easycache:threshold={threshold},warmup=5"
        yield f"first-block:threshold={threshold}"


class Results:
    """Rows by (yardstick, sampler, name), in a file that is written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {"stamps": [], "rows": {}, "tuned": {}}
        self.stamps, self.rows, self.tuned = found["stamps"], found["rows"], found["tuned"]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({"stamps": self.stamps, "rows": self.rows, "tuned": self.tuned}, indent=0) + "\n")
        beside.replace(self.path)


class Bench:
    """One yardstick with one sampler."""

    def __init__(self, yardstick: Yardstick, sampler: str, samples: int, results: Results) -> None:
        self.yardstick, self.sampler, self.results = yardstick, sampler, results
        yardstick.use(yardstick.sampler(sampler))
        self.prompts, self.seeds = HELD[yardstick.name](samples)
        self._reference: torch.Tensor | None = None

    def key(self, name: str) -> str:
        return f"{self.yardstick.name} | {self.sampler} | {name}"

    @property
    def reference(self) -> torch.Tensor:
        if self._reference is None:
            self._reference = self.yardstick.make(self.prompts, self.seeds, num_inference_steps=STEPS)
        return self._reference

    def row(self, kind: str, name: str, computed: float, make: Any, **more: Any) -> None:
        """Measured unless it is there."""
        if self.key(name) in self.results.rows:
            return
        started = time.perf_counter()
        made = make()
        close = [round(x, 3) for x in psnr(made, self.reference).clamp(max=120).tolist()]
        row = {"kind": kind, "computed": computed, "psnr": close, **more}
        row["adherence"] = round(self.yardstick.adherence(self.prompts, made), 4)
        self.results.rows[self.key(name)] = row
        self.results.save()
        mean, took = sum(close) / len(close), time.perf_counter() - started
        print(f"{self.key(name):90} {computed:5.1f} {mean:6.2f} / {min(close):6.2f} dB {took:5.1f} s", flush=True)

    def cached(self, kind: str, method: str, computed: float, name: str | None = None) -> None:
        def make() -> torch.Tensor:
            with c4d.cached(self.yardstick.pipe, method):
                return self.yardstick.make(self.prompts, self.seeds, num_inference_steps=STEPS)

        self.row(kind, name or method, computed, make)

    def all(self, options: argparse.Namespace) -> None:
        make = self.yardstick.make
        self.row("uncached", "uncached", STEPS, lambda: self.reference)
        for count in (*COMPUTED, 25):
            few = partial(make, self.prompts, self.seeds, num_inference_steps=count)
            self.row("plain", f"{count} plain steps", count, few)
        name = self.yardstick.name
        if name in named():
            for count in COMPUTED:
                self.cached("profile", f"profile:{name},computed={count}", computed=count)
        without = FOLDER / f"without-{name}.json"
        if without.exists():
            for count in COMPUTED:
                self.cached("universal", f"profile:{without},computed={count}", count, f"universal,computed={count}")
        if self.sampler != "euler" or self.yardstick.flow:
            for count in options.levels:
                self.levels(count, options.seconds)
        if options.methods:
            self.methods()

    def levels(self, count: int, seconds: float) -> None:
        """Plain steps at searched noise levels."""
        label = f"{count} plain steps at searched levels"
        if self.key(label) in self.results.rows:
            return
        yardstick, scheduler = self.yardstick, self.yardstick.pipe.scheduler
        prompts = yardstick.learning()[:LEARNING]
        seeds = range(SEED, SEED + len(prompts))
        reference = yardstick.make(prompts, seeds, num_inference_steps=STEPS)
        start = [round(i * STEPS / count) for i in range(count)]
        again = partial(yardstick.make, prompts, seeds, num_inference_steps=count)
        steps, tried = plain.searched(again, reference, scheduler, start, STEPS, seconds)

        def make() -> torch.Tensor:
            with plain.Chosen(scheduler, steps, STEPS):
                return yardstick.make(self.prompts, self.seeds, num_inference_steps=count)

        self.row("levels", label, count, make, steps=steps, tried=tried)

    def methods(self) -> None:
        """Each method with the settings that were best on the calibration prompts, for each cost."""
        tuned = self.results.tuned.setdefault(f"{self.yardstick.name} | {self.sampler}", {})
        yardstick, prompts = self.yardstick, self.yardstick.learning()[:LEARNING]
        seeds, reference = range(SEED, SEED + len(prompts)), None
        for text in grid(STEPS):
            if text in tuned:
                continue
            try:
                session = c4d.cached(yardstick.pipe, text)
            except (ValueError, TypeError):
                tuned[text] = None
                continue
            if reference is None:
                reference = yardstick.make(prompts, seeds, num_inference_steps=STEPS)
            with session:
                made = yardstick.make(prompts, seeds, num_inference_steps=STEPS)
            report = session.report()
            if report.modules_total:
                share = 1 - report.modules_reused / report.modules_total
            else:
                share = report.blocks_entered / report.blocks_total
            tuned[text] = [round(share * STEPS, 2), round(float(psnr(made, reference).clamp(max=120).mean()), 3)]
            self.results.save()
        for count in COMPUTED:
            best: dict[str, tuple[float, str, float]] = {}
            for text, found in tuned.items():
                method = text.partition(":")[0]
                if found is not None and found[0] <= count + 0.51:
                    best[method] = max(best.get(method, (-1.0, "", 0.0)), (found[1], text, found[0]))
            for _, text, cost in best.values():
                self.cached("method", text, computed=cost)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yardsticks", nargs="+", choices=HELD, default=list(HELD))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument(
        "--levels", nargs="*", type=int, default=[14, 10, 8], help="searched for these numbers of steps"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of each search for noise levels")
    parser.add_argument("--methods", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--render", action="store_true", help="write the page; measure nothing")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    results = Results(FOLDER / "results.json")
    if not options.render:
        command = shlex.join(["python", "-m", "bench.profiles", *sys.argv[1:]])
        results.stamps.append(stamp(command, options.threads))
        for name in options.yardsticks:
            for sampler in filter(Yardstick(name).takes, options.samplers):
                Bench(Yardstick(name), sampler, options.samples, results).all(options)
    (FOLDER / "README.md").write_text(page.write(results.rows, results.stamps))
    print(f"written: {FOLDER}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
