"""How close profiles come on the yardsticks, beside everything else of the same cost.

    python -m bench.profiles [--yardsticks wan-tiny …] [--samplers unipc …] [--kinds plain profile …] [--render]

Of each yardstick and sampler, 50 steps: the shipped profile (that of this sampler if there is one), the universal one
that was fitted without this yardstick, the package's methods and the peers' tuned on the calibration prompts, BudCache
and MeanCache, fewer plain steps, and plain steps at noise levels that were searched on the calibration prompts. A
finished row is kept in docs/measurements/profiles/results.json, so an interrupted run goes on; --render writes the page
alone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch

import c4d
from bench import others
from bench.profiles import baselines, page
from bench.profiles.results import Results
from bench.settings import COMPUTED, COUNTS, STEPS, best, by_method, by_peer, grid, learned, learning
from bench.stamp import stamp
from bench.yardsticks import BATCH, FOLDER, HELD, SAMPLERS, Yardstick
from c4d.calibrate.levels import Chosen, searched
from c4d.calibrate.reference import record
from c4d.core.caching.profiles import for_model
from c4d.core.caching.step_search import annealed, evenly
from c4d.core.integration.transformers import signature
from c4d.metrics import psnr
from c4d.pipelines.compare import work
from c4d.pipelines.flops import Flops

BETWEEN = (22, 18, 15, 13, 11, 9, 7)  # some of those between the numbers that the shipped profiles were made for
KINDS = ("plain", "profile", "universal", "between", "levels", "methods", "meancache", "budcache", "peers")


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
        setting = partial(c4d.cached, self.yardstick.pipe, method)
        self.row(kind, name or method, computed, partial(self._batches, setting))

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
        for count in COUNTS:
            self.fewer("plain", count)

    def fewer(self, kind: str, count: int) -> None:
        few = partial(self.yardstick.make, self.prompts, self.seeds, num_inference_steps=count)
        self.row(kind, f"{count} plain steps", count, few)

    @cached_property
    def own(self) -> tuple[str, c4d.Profile]:
        """The shipped profile that this model has for this sampler, or for its own, and before it its name."""
        pipe = self.yardstick.pipe
        own = for_model(signature(pipe.transformer), type(pipe.scheduler).__name__)
        assert own is not None  # each bundled model has one
        return own

    def profile(self) -> None:
        for count in COMPUTED:
            self.cached("profile", f"profile:{self.own[0]},computed={count}", count)

    def universal(self) -> None:
        without = FOLDER / f"without-{self.yardstick.name}.json"
        for count in COMPUTED if without.exists() else ():
            self.cached("universal", f"profile:{without},computed={count}", count, f"universal,computed={count}")

    def between(self) -> None:
        """Numbers of computed steps that were not searched at length."""
        name, profile = self.own
        for count in [count for count in BETWEEN if count in profile.plans]:
            self.fewer("plain between", count)
            self.cached("between", f"profile:{name},computed={count}", count)

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
        prompts, seeds = learning(self.yardstick)
        reference = yardstick.make(prompts, seeds, num_inference_steps=STEPS)
        start = evenly(count, STEPS)

        def at(prompts: Any, seeds: Any, steps: Sequence[int]) -> torch.Tensor:
            with Chosen(scheduler, steps, STEPS):
                return yardstick.make(prompts, seeds, num_inference_steps=count)

        steps, tried = searched(partial(at, prompts, seeds), reference, start, STEPS, seconds)
        make = partial(at, self.prompts, self.seeds, steps)
        self.row("levels", label, count, make, steps=steps, tried=tried)

    def methods(self) -> None:
        """Each method with the settings that were best on the calibration prompts, for each cost."""
        settings = {}
        for name, text in grid(self.yardstick.name, learned(self.yardstick, self.sampler)):
            try:
                c4d.cached(self.yardstick.pipe, text).unused = None  # it is only asked whether it fits
            except (ValueError, TypeError):
                continue
            settings[name] = partial(c4d.cached, self.yardstick.pipe, text)
        self.tuned("method", settings, by_method)

    def peers(self) -> None:
        """Those of other libraries that are installed here, in the same way."""
        run = partial(self.yardstick.make, *learning(self.yardstick, 4), num_inference_steps=STEPS)
        found = others.all_of(self.yardstick.pipe, STEPS, run)
        settings = {each.name: partial(each.at_work, self.yardstick.pipe) for each in found}
        self.tuned("peer", settings, by_peer)

    def tuned(
        self, kind: str, settings: Mapping[str, Callable[[], AbstractContextManager[Any]]], group: Callable[[str], str]
    ) -> None:
        """Of each group and cost, the setting that is closest on the calibration prompts."""
        known = self.results.tuned.setdefault(f"{self.yardstick.name} | {self.sampler}", {})
        for name in [name for name in settings if name not in known]:
            try:
                known[name] = self._tried(settings[name])
            except Exception as error:
                if kind != "peer":
                    raise
                print(f"{self.key(name)}: {error}", flush=True)  # not every library knows every model
                known[name] = None
            self.results.save()
        for name in best({name: known[name] for name in settings}, group):
            self.row(kind, name, known[name][0], partial(self._batches, settings[name]))

    def _tried(self, setting: Callable[[], AbstractContextManager[Any]]) -> tuple[float, float]:
        """The computed steps and the closeness on the calibration prompts."""
        prompts, seeds = learning(self.yardstick)
        with setting() as session, Flops(self.yardstick.pipe) if session is None else nullcontext() as flops:
            made = self.yardstick.make(prompts, seeds, num_inference_steps=STEPS)
        if flops is not None:
            share = flops.count / self.whole
        else:
            computed = work(session.report().to_dict())
            share = computed["done"] / computed["total"]
        close = float(psnr(made, self.uncached_learning).clamp(max=120).mean())
        return round(share * STEPS, 2), round(close, 3)

    @cached_property
    def uncached_learning(self) -> torch.Tensor:
        """The uncached pictures of the calibration prompts."""
        return self.yardstick.make(*learning(self.yardstick), num_inference_steps=STEPS)

    @cached_property
    def whole(self) -> int:
        """FLOPs of their uncached run."""
        with Flops(self.yardstick.pipe) as flops:
            self.yardstick.make(*learning(self.yardstick), num_inference_steps=STEPS)
        return flops.count

    def _batches(self, setting: Callable[[], AbstractContextManager[Any]]) -> torch.Tensor:
        """The held-out pictures; each batch begins afresh, for what a peer remembers of one run reaches the next."""
        parts = []
        for start in range(0, len(self.prompts), BATCH):
            chunk = slice(start, start + BATCH)
            with setting():
                parts.append(self.yardstick.make(self.prompts[chunk], self.seeds[chunk], num_inference_steps=STEPS))
        return torch.cat(parts)

    def meancache(self) -> None:
        """Where the model predicts a flow."""
        todo = [count for count in COMPUTED if self.key(f"meancache,computed={count}") not in self.results.rows]
        if not todo or not self.yardstick.flow:
            return
        reference = record(self.yardstick.samplings(*learning(self.yardstick), num_inference_steps=STEPS))
        for count in todo:
            orders = baselines.planned(reference, count)
            setting = partial(c4d.cached, self.yardstick.pipe, baselines.meancache(orders))
            made, said = partial(self._batches, setting), sorted(orders.items())
            self.row("baseline", f"meancache,computed={count}", count, made, orders=said)

    def budcache(self) -> None:
        one = partial(self.yardstick.last_latents, *learning(self.yardstick, 1), num_inference_steps=STEPS)
        todo = [count for count in COMPUTED if self.key(f"budcache,computed={count}") not in self.results.rows]
        if not todo:
            return
        reference = one()

        def loss(steps: Sequence[int]) -> float:
            with c4d.cached(self.yardstick.pipe, baselines.budcache(steps)):
                return float((one() - reference).double().pow(2).mean())

        for count in todo:
            steps = annealed(loss, count, STEPS)
            setting = partial(c4d.cached, self.yardstick.pipe, baselines.budcache(steps))
            self.row("baseline", f"budcache,computed={count}", count, partial(self._batches, setting), steps=steps)


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
