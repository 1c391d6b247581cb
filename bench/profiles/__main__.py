"""How close profiles come on the yardsticks, beside everything else of the same cost.

    python -m bench.profiles [--yardsticks wan-tiny …] [--samplers unipc …] [--kinds plain profile …] [--render]

Of each yardstick and sampler, 50 steps: the shipped profile (that of this sampler if there is one), the universal one
that was fitted without this yardstick, the package's methods tuned on the calibration prompts, BudCache and MeanCache,
on wan-tiny the peers' methods, fewer plain steps, and plain steps at noise levels that were searched on the calibration
prompts. A finished row is kept in docs/measurements/profiles/results.json, so an interrupted run goes on; --render
writes the page alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

import c4d
from bench.fidelity import cost, others
from bench.learned import Learned
from bench.profiles import baselines, page
from bench.stamp import stamp
from bench.yardsticks import BATCH, FOLDER, HELD, SAMPLERS, SEED, Yardstick
from c4d.calibrate.levels import Chosen, searched
from c4d.calibrate.reference import record
from c4d.core.caching.profiles import for_model
from c4d.core.integration.transformers import signature
from c4d.metrics import psnr

STEPS = 50
COMPUTED = (20, 17, 14, 12, 10, 8, 6)
BETWEEN = (22, 18, 15, 13, 11, 9, 7)  # some of those between the numbers that the shipped profiles were made for
KINDS = ("plain", "profile", "universal", "between", "levels", "methods", "meancache", "budcache", "peers")
LEARNING = 8  # calibration prompts that the other methods are tuned on
NEAREST = {"wan-tiny": "wan2.1-t2v-1.3b", "flux-tiny": "flux.1-dev"}  # whose published curves and lists are tried
LISTS = {"wan-tiny": (14, 17, 20, 25), "flux-tiny": (10, 15, 20)}
Setting = tuple[str, str]  # its name, and its text, which has the path of what was learned


def grid(yardstick: str, learned: Callable[[str, tuple[int, ...]], Path]) -> Iterator[Setting]:
    """Settings of the package's methods, from which each takes its best for a cost."""
    yield from ((text, text) for text in _grid(yardstick))
    for count in (*COMPUTED, 25):
        yield f"dpcache:budget={count}", f"dpcache:path={learned('dpcache', ())},budget={count}"
        spread = tuple(sorted({round(i * (STEPS - 1) / (count - 1)) for i in range(count)}))
        yield f"l2p:{count} steps", f"l2p:path={learned('l2p', spread)}"


def _grid(yardstick: str) -> Iterator[str]:
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
        yield f"taylorseer:interval={every},order=1"
    for threshold in (0.1, 0.15, 0.2, 0.3, 0.5):
        for signal in ("time_embedding", "modulated_input"):
            yield f"teacache:threshold={threshold},coefficients=1/0,signal={signal},warmup=3+taylor:order=1"
        yield f"easycache:threshold={threshold},warmup=5"
        yield f"first-block:threshold={threshold}"
        yield f"first-block:threshold={threshold / 2},warmup=4+taylor:order=1"
    if near := NEAREST.get(yardstick):
        for threshold, skips in ((0.06, 2), (0.12, 4), (0.24, 6)):
            yield f"magcache:curve={near},threshold={threshold},max_skips={skips}"
            yield f"magcache:curve={near},threshold={threshold},max_skips={skips}+taylor:order=1"
        for count in LISTS[yardstick]:
            yield f"lemica:published={near}-{count}"
            yield f"lemica:published={near}-{count}+taylor:order=1"
    yield "pab:attn=2,cross_attn=4"
    yield "pab:attn=2"
    yield "fastercache:weight=0.5"


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

    def all(self, kinds: Sequence[str], levels: Sequence[int], seconds: float) -> None:
        self.row("uncached", "uncached", STEPS, lambda: self.reference)
        each = {
            "plain": self.plain,
            "profile": self.profile,
            "universal": self.universal,
            "between": self.between,
            "levels": lambda: self.levels(levels, seconds),
            "methods": self.methods,
            "meancache": self.meancache,
            "budcache": self.budcache,
            "peers": self.peers,
        }
        for kind in kinds:
            each[kind]()

    def plain(self) -> None:
        for count in (*COMPUTED, 25):
            self.fewer("plain", count)

    def fewer(self, kind: str, count: int) -> None:
        few = partial(self.yardstick.make, self.prompts, self.seeds, num_inference_steps=count)
        self.row(kind, f"{count} plain steps", count, few)

    @cached_property
    def own(self) -> str:
        """The name of the shipped profile that this model has for this sampler, or for its own."""
        pipe = self.yardstick.pipe
        own = for_model(signature(pipe.transformer), type(pipe.scheduler).__name__)
        assert own is not None  # each bundled model has one
        return own[0]

    def profile(self) -> None:
        for count in COMPUTED:
            self.cached("profile", f"profile:{self.own},computed={count}", count)

    def universal(self) -> None:
        without = FOLDER / f"without-{self.yardstick.name}.json"
        for count in COMPUTED if without.exists() else ():
            self.cached("universal", f"profile:{without},computed={count}", count, f"universal,computed={count}")

    def between(self) -> None:
        """Numbers of computed steps that were not searched at length."""
        for count in BETWEEN:
            self.fewer("plain between", count)
            self.cached("between", f"profile:{self.own},computed={count}", count)

    def levels(self, counts: Sequence[int], seconds: float) -> None:
        """Plain steps at searched noise levels, of schedulers that can be given them."""
        if self.sampler != "euler" or self.yardstick.flow:
            for count in counts:
                self._level(count, seconds)

    def _level(self, count: int, seconds: float) -> None:
        label = f"{count} plain steps at searched levels"
        if self.key(label) in self.results.rows:
            return
        yardstick, scheduler = self.yardstick, self.yardstick.pipe.scheduler
        prompts, seeds = self.learning()
        reference = yardstick.make(prompts, seeds, num_inference_steps=STEPS)
        start = [round(i * STEPS / count) for i in range(count)]
        again = partial(yardstick.make, prompts, seeds, num_inference_steps=count)
        steps, tried = searched(again, reference, scheduler, start, STEPS, seconds)

        def make() -> torch.Tensor:
            with Chosen(scheduler, steps, STEPS):
                return yardstick.make(self.prompts, self.seeds, num_inference_steps=count)

        self.row("levels", label, count, make, steps=steps, tried=tried)

    def methods(self) -> None:
        """Each method with the settings that were best on the calibration prompts, for each cost."""
        tuned = self.results.tuned.setdefault(f"{self.yardstick.name} | {self.sampler}", {})
        yardstick, reference = self.yardstick, None
        prompts, seeds = self.learning()
        texts = {}
        for name, text in grid(self.yardstick.name, self.learned):
            texts[name] = text
            if name in tuned:
                continue
            try:
                session = c4d.cached(yardstick.pipe, text)
            except (ValueError, TypeError):
                tuned[name] = None
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
            tuned[name] = [round(share * STEPS, 2), round(float(psnr(made, reference).clamp(max=120).mean()), 3)]
            self.results.save()
        for count in COMPUTED:
            best: dict[str, tuple[float, str, float]] = {}
            for name, found in tuned.items():
                method = name.partition(":")[0]
                if found is not None and found[0] <= count + 0.51:
                    best[method] = max(best.get(method, (-1.0, "", 0.0)), (found[1], name, found[0]))
            for _, name, computed in best.values():
                self.cached("method", texts[name], computed, name)

    @cached_property
    def learned(self) -> Callable[[str, tuple[int, ...]], Path]:
        """The path of what DPCache or L2P learned from four calibration samples under this sampler."""
        run = partial(self.yardstick.make, *self.learning(4), num_inference_steps=STEPS)
        return Learned(self.yardstick.pipe, run, Path(tempfile.mkdtemp())).path

    def learning(self, count: int = LEARNING) -> tuple[list[str], list[int]]:
        prompts = self.yardstick.learning()[:count]
        return prompts, list(range(SEED, SEED + len(prompts)))

    def meancache(self) -> None:
        """Where the model predicts a flow."""
        todo = [count for count in COMPUTED if self.key(f"meancache,computed={count}") not in self.results.rows]
        if not todo or not self.yardstick.flow:
            return
        reference = record(self.yardstick.samplings(*self.learning(), {}, num_inference_steps=STEPS))
        for count in todo:
            planned, made = baselines.MeanCache.planned(reference, count), dict[int, torch.Tensor]()

            def make(planned: Any = planned, made: dict[int, torch.Tensor] = made) -> torch.Tensor:
                samplings = self.yardstick.samplings(self.prompts, self.seeds, made, num_inference_steps=STEPS)
                planned.run(samplings, reference.levels)
                return torch.cat([made[i] for i in sorted(made)])

            self.row("baseline", f"meancache,computed={count}", count, make, orders=planned.orders)

    def budcache(self) -> None:
        one = partial(self.yardstick.last_latents, *self.learning(1), num_inference_steps=STEPS)
        todo = [count for count in COMPUTED if self.key(f"budcache,computed={count}") not in self.results.rows]
        if not todo:
            return
        reference = one()

        def loss(steps: Sequence[int]) -> float:
            with c4d.cached(self.yardstick.pipe, _reusing(steps)):
                return float((one() - reference).double().pow(2).mean())

        for count in todo:
            steps = baselines.budcache(loss, count, STEPS)
            self.cached("baseline", _reusing(steps), count, f"budcache,computed={count}")

    def peers(self) -> None:
        """Their own methods, with the settings of bench.fidelity; what each computed is counted in the blocks."""
        if self.yardstick.name != "wan-tiny":  # the calls in bench/peers are for Wan
            return
        pipe, make = self.yardstick.pipe, self.yardstick.make
        few = partial(make, self.prompts[:1], self.seeds[:1], num_inference_steps=2)
        parts = cost.shares(pipe.transformer, few)
        whole = STEPS * 2 * len(pipe.transformer.blocks)  # rows of a sample, both branches of guidance
        ratios = cache(lambda: others.mag_ratios(pipe, STEPS, partial(make, *self.learning(4))))
        for case in [*others.cache_dit(STEPS), *others.diffusers(STEPS, ratios)]:
            if self.key(case.name) in self.results.rows:
                continue
            pictures = []
            with case.open(pipe) as begin, cost.Rows(pipe.transformer, parts) as counted:
                for start in range(0, len(self.prompts), BATCH):
                    chunk = slice(start, start + BATCH)
                    begin()
                    pictures.append(make(self.prompts[chunk], self.seeds[chunk], num_inference_steps=STEPS))
            computed = round(counted.computed / len(self.prompts) / whole * STEPS, 2)
            self.row("peer", case.name, computed, partial(torch.cat, pictures))


def _reusing(steps: Sequence[int]) -> str:
    """The blocks' residual is reused on all other steps."""
    return f"lemica:computed={'/'.join(map(str, steps))}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yardsticks", nargs="+", choices=HELD, default=list(HELD))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument(
        "--levels", nargs="*", type=int, default=[14, 10, 8], help="searched for these numbers of steps"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of each search for noise levels")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is measured")
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
                Bench(Yardstick(name), sampler, options.samples, results).all(
                    options.kinds, options.levels, options.seconds
                )
    (FOLDER / "README.md").write_text(page.write(results.rows, results.stamps))
    print(f"written: {FOLDER}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
