"""What a profile owes to what: schedules, targets, terms, ridges and numbers of prompts, each in place of its own.

    python -m bench.profiles.ablations [--yardstick wan-tiny] [--computed 14 10] [--samples 24]

Every row changes one thing of the fit that the shipped profile was made by, on its schedule: 36 calibration samples, a
ridge of 0.001. PSNR to the uncached run of 50 steps on held-out samples. docs/measurements/profiles/ablations.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

import c4d
from bench.profiles.__main__ import STEPS
from bench.profiles.page import close, closer
from bench.profiles.script import Options, run
from bench.yardsticks import HELD, SEED, Yardstick
from c4d.calibrate.fit import Anchor, Fit
from c4d.calibrate.lockstep import Arrival, Lockstep
from c4d.calibrate.reference import record
from c4d.calibrate.starts import BEGIN, planned
from c4d.core.caching.profile import Profile
from c4d.core.caching.profiles import shipped
from c4d.core.caching.solver import HALF_SLOPE, Coefficients, Plan
from c4d.core.integration.transformers import signature
from c4d.metrics import psnr
from c4d.metrics.sheet import spaced

LEARNED, RIDGE = 36, 1e-3
Variant = tuple[str, Callable[[Fit, frozenset[int]], Plan]]


class OpenLoop(Fit):
    """Fitted to what the model returned in the uncached run, wherever the cached one has come to."""

    def _targets(
        self, i: int, passing: Lockstep, arrivals: Sequence[Arrival], anchors: Sequence[Anchor]
    ) -> list[Tensor]:
        return self.reference.track.outputs[i]


def fitted(fit: Fit, computed: frozenset[int]) -> Plan:
    return fit.plan(fit.follow(computed))


def fixed(coefficients: Coefficients) -> Callable[[Fit, frozenset[int]], Plan]:
    """The same coefficients at each step: nothing is learned."""

    def plan(fit: Fit, computed: frozenset[int]) -> Plan:
        levels = fit.reference.levels
        others = sorted(set(range(len(levels))) - computed)
        return Plan(tuple(levels[i] for i in sorted(computed)), tuple((levels[i], coefficients) for i in others))

    return plan


def on(schedule: Callable[[Fit, int], frozenset[int]]) -> Callable[[Fit, frozenset[int]], Plan]:
    """Fitted on another schedule of as many steps."""
    return lambda fit, computed: fitted(fit, schedule(fit, len(computed)))


def uniform(fit: Fit, count: int) -> frozenset[int]:
    return frozenset(spaced(fit.reference.steps, count))


def taught_by(count: int) -> Callable[[Fit, frozenset[int]], Plan]:
    return lambda fit, computed: fit.plan(fit.follow(computed, rows=range(count)))


def without_latents(fit: Fit, computed: frozenset[int]) -> Plan:
    return fitted(Fit(fit.samplings, replace(fit.reference, latents=False), ridge=fit.ridge), computed)


def open_loop(fit: Fit, computed: frozenset[int]) -> Plan:
    return fitted(OpenLoop(fit.samplings, fit.reference, ridge=fit.ridge), computed)


def variants() -> Iterator[Variant]:
    yield "as it is", fitted
    yield "steps evenly spaced", on(uniform)
    yield "steps planned from the uncached samples", on(lambda fit, count: planned(fit.reference, [count])[count])
    yield "steps of a smooth shape", on(lambda fit, count: BEGIN[0].steps(count, fit.reference.steps))
    yield "nothing learned: the last output again", fixed((0.0, 0.0, 0.0, 0.0, 0.0))
    yield "nothing learned: a half slope", fixed(HALF_SLOPE)
    yield "nothing learned: a whole slope", fixed((0.0, 1.0, 0.0, 0.0, 0.0))
    yield "target: what the model returned in the uncached run", open_loop
    yield "no computed step is corrected", lambda fit, computed: fitted(fit.but(corrects_from=1.0), computed)
    yield "those of the second half alone", lambda fit, computed: fitted(fit.but(corrects_from=0.5), computed)
    yield "without the latents", without_latents
    for ridge in (1e-1, 1e-2, 1e-4):
        yield f"ridge {ridge:g}", lambda fit, computed, ridge=ridge: fitted(fit.but(ridge=ridge), computed)
    for count in (1, 2, 4, 8, 16):
        yield f"taught by {count} of the samples", taught_by(count)


def head(options: Options) -> str:
    titles = " | ".join(f"{count} of {STEPS} | loses" for count in options.computed)
    return f"""# What a profile owes to what: {options.yardstick}

PSNR in dB to the uncached run, mean / worst of {options.samples} held-out samples, and how much closer the profile is
than each change of it, with the 95 % interval over paired samples. The weights are fitted to {LEARNED} calibration
samples with a ridge of {RIDGE:g}, at the steps of the shipped profile. A small model: no large one has been measured.

| changed | {titles} |
|---|{"---|---|" * len(options.computed)}
"""


def rows(options: Options) -> Iterator[str]:
    yardstick = Yardstick(options.yardstick)
    pipe, own = yardstick.pipe, Profile.load(shipped()[options.yardstick])
    learning = yardstick.learning(LEARNED)
    samplings = yardstick.samplings(learning, list(range(SEED, SEED + len(learning))), num_inference_steps=STEPS)
    fit = Fit(samplings, record(samplings), ridge=RIDGE)
    held = HELD[options.yardstick](options.samples)
    reference = yardstick.make(*held, num_inference_steps=STEPS)
    path, itself = Path(tempfile.mkdtemp()) / "profile.json", dict[int, list[float]]()
    for said, make in variants():
        cells = []
        for count in options.computed:
            plan = make(fit, own.plan(count).steps(fit.reference.levels))
            Profile(own.kind, {count: plan}, signature(pipe.transformer)).save(path)
            with c4d.cached(pipe, f"profile:{path}"):
                found = psnr(yardstick.make(*held, num_inference_steps=STEPS), reference).tolist()
            best = itself.setdefault(count, found)
            cells += [close(found), "" if found is best else closer(best, found)]
        yield f"| {said} | {' | '.join(cells)} |"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yardstick", choices=HELD, default="wan-tiny")
    parser.add_argument("--computed", nargs="+", type=int, default=[14, 10])


if __name__ == "__main__":
    sys.exit(run(__doc__, "ablations", head, rows, arguments))
