"""``c4d.tune``: a profile of a model, made by running it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from c4d.calibrate import starts
from c4d.calibrate.about import about_sampling
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Fit, distances
from c4d.calibrate.lockstep import Samplings
from c4d.calibrate.pipeline import sampling
from c4d.calibrate.reference import Reference, record, reopen
from c4d.calibrate.sampler import coordinate_of
from c4d.calibrate.search import Allowance, Journal, Search, middles, stretched, suited
from c4d.calibrate.store import Store
from c4d.core.caching.profile import Profile
from c4d.core.caching.profiles import named, universal
from c4d.core.caching.solver import Plan
from c4d.core.caching.step_search import evenly
from c4d.core.integration.hooks import at_work
from c4d.core.integration.hooks import named as arguments
from c4d.core.integration.transformers import signature, transformers_of
from c4d.core.spec import ModelSpec
from c4d.models import spec_for
from c4d.parallel.session import Parallel

COMPUTED = (20, 14, 10)
SAMPLES = 24  # that a search is over
BATCH = 8
REST = 0.2  # of the time of a search, for the numbers of computed steps between those that were asked for
BETWEEN = 4  # how many times fewer trials these have


def tune(
    model: Any,
    generate: Callable[[int], Any] | None = None,
    *,
    prompts: Sequence[str] = (),
    samples: int = SAMPLES,
    computed: int | Sequence[int] = COMPUTED,
    minutes: float = 4.0,
    trials: int | None = None,
    scheduler: Any = None,
    spec: ModelSpec | None = None,
    seed: int = 0,
    batch: int | None = None,
    begin: Profile | None = None,
    work: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
    **call: Any,
) -> Profile:
    """Makes a profile of ``model``: which steps to compute, and how to make the outputs between (``profile:PATH``).

    It runs the samples uncached once, then fits and searches on cached runs of them; the model stays what it was. With
    ``minutes=0`` nothing is searched: the weights are fitted to a schedule that is known (of ``begin``, else of the
    universal profile, else planned from the uncached samples).

    Args:
        model: a diffusers pipeline, or a bare transformer.
        generate: ``generate(i)`` runs your own sampling of sample (or batch) i, the same each time, with ``scheduler``;
            of a pipeline with ``prompts`` it is made here.
        prompts: of a pipeline; texts, or names of classes. The noise of the i-th has the seed ``seed`` + i.
        samples: how many samplings ``generate`` makes. Of a pipeline, prompts are taken again under other noise until
            there are so many, if schedules are searched: a search over few samples finds what suits them alone. So
            many prompts are better than a few under several noises.
        computed: numbers of computed steps, each with a plan of its own. The numbers between them have plans that begin
            with the next lower one, found in a fifth of the time; where there is none, others are interpolated.
        minutes: how long to search, after the reference samples were made.
        trials: of each number of computed steps, how many schedules may be tried; with it the result does not depend
            on the machine's speed.
        scheduler: that the samplings step with; of a pipeline its own.
        spec: of a transformer that c4d does not know.
        batch: how many prompts are made at once; fewer where memory ends (default 8).
        begin: a profile whose schedules the search begins with, of this or of another model.
        work: a folder in which the reference samples and the scores of schedules are kept, so that an interrupted call
            with the same arguments goes on where it was.
        about: more about the model that the profile is to name.
        progress: is told lines.
        call: what else the pipeline is called with, such as ``height`` or ``guidance_scale``.

    Raises:
        CalibrationError: a sampler that adds noise or is not affine in the model's output, samplings of different
            lengths, fewer steps than are to be computed.
        TypeError, UnsupportedModelError: as :func:`c4d.cached`.
    """
    transformers = list(transformers_of(model).values())
    if not transformers:
        raise TypeError(f"{type(model).__name__} has no transformer: give a diffusers pipeline, or the transformer")
    counts = sorted({computed} if isinstance(computed, int) else set(computed), reverse=True)
    if not counts or counts[-1] < 2:
        raise CalibrationError(f"computed is {computed!r}: give numbers of steps from 2, such as (14, 10)")
    if scheduler is None:
        scheduler = getattr(model, "scheduler", None)
    if begin is not None and begin.kind != (own := coordinate_of(scheduler).name):
        raise CalibrationError(f"begin is a profile of a model that predicts {begin.kind}, and this one predicts {own}")
    if generate is None and not prompts:
        raise CalibrationError("nothing to sample: give prompts=[…] of a pipeline, or a function generate(i)")
    read = [partial(latents_given, module, spec or spec_for(module)) for module in transformers]
    ranks = at_work(transformers[0], Parallel)
    apart = ranks is not None and ranks.mesh.degrees.cfg > 1
    made_of = _Job(transformers, scheduler, read, apart, Path(work) if work is not None else None, progress or _silent)
    if generate is not None:
        samplings, reference = made_of.recorded(generate, samples)
    else:
        searching = minutes > 0 or bool(trials)
        again = max(1, math.ceil(samples / len(prompts))) if searching else 1
        prompts = [*prompts] * again
        samplings, reference = made_of.of_prompts(model, prompts, seed, batch or min(BATCH, len(prompts)), call)
    if counts[0] >= reference.steps:
        raise CalibrationError(
            f"computed={counts[0]} of {reference.steps} steps leaves nothing to skip: take fewer than the run has"
        )
    fit = Fit(samplings, reference, agreed=list if ranks is None else ranks.common)
    found = made_of.searched(fit, counts, minutes * 60.0, trials, begin)
    told = {
        **about_sampling(scheduler, prompts, call),
        "steps": reference.steps,
        "samples": fit.count,
        "latents": reference.latents,
        "shape": list(reference.track.samples[0][0].shape[1:]),
        **(about or {}),
    }
    return Profile(
        reference.coordinate.name,
        {count: each.plan for count, each in found.items()},
        signature(transformers[0]),
        told,
        {count: each.measured for count, each in found.items()},
        counts[len(counts) // 2],
    )


def _silent(line: str) -> None:
    return None


@dataclass
class _Job:
    transformers: Sequence[nn.Module]
    scheduler: Any
    read: Sequence[Callable[..., Tensor | None]]
    apart: bool
    work: Path | None
    progress: Callable[[str], None]

    def recorded(self, generate: Callable[[int], Any], count: int) -> tuple[Samplings, Reference]:
        samplings = Samplings(self.transformers, self.scheduler, generate, count, self.read, self.apart)
        folder = None if self.work is None else self.work / "reference"
        if folder is not None and (kept := reopen(samplings, folder)) is not None:
            self.progress("reference samples: as they were kept")
            return samplings, kept
        return samplings, record(samplings, Store(folder), self.progress)

    def of_prompts(
        self, pipe: Any, prompts: Sequence[str], seed: int, batch: int, call: Mapping[str, Any]
    ) -> tuple[Samplings, Reference]:
        """In batches, halved as often as memory ends."""
        while True:
            generate, count = sampling(pipe, prompts, seed=seed, batch=batch, call=call)
            try:
                return self.recorded(generate, count)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch = (batch + 1) // 2
                self.progress(f"out of memory: now {batch} prompts at once")

    def searched(
        self, fit: Fit, counts: Sequence[int], seconds: float, trials: int | None, begin: Profile | None
    ) -> dict[int, Learned]:
        """By the number of computed steps: those of ``counts``, the most first, each of which begins with what those
        before it found; then those between them, from the fewest, in what is kept of the time for it."""
        first, found = starts.planned(fit.reference, counts), dict[int, Learned]()
        between = [count for count in range(counts[-1], counts[0]) if count not in counts]
        budget = _Budget(trials, seconds)
        for place, count in enumerate(counts):
            allowed = budget.share(count, counts[place:], kept=REST if between else 0.0)
            others = [*_begun(begin, fit.reference, count), first[count]]
            others += [
                stretched(sorted(found[more].computed), count, fit.reference.steps) for more in sorted(found)[:1]
            ]
            others += _shaped(fit.reference, count)
            computed = self._search(fit, count).run(others, allowed)
            last = suited(fit, computed) if allowed.any() else fit
            found[count] = self._learned(last, computed, allowed.used)
        for place, count in enumerate(between):
            allowed = budget.share(count, between[place:], fewer=BETWEEN)
            near = found[min(counts, key=lambda other: abs(other - count))].measured["fit"]
            drawn = fit.but(ridge=near["ridge"], corrects_from=near["corrects_from"])
            computed = self._search(drawn, count).run(_beside(found, count, fit.reference), allowed)
            if not allowed.used:
                break  # those that are left are interpolated
            found[count] = self._learned(drawn, computed, allowed.used)
        return found

    def _search(self, fit: Fit, count: int) -> Search:
        name = f"scores-{fit.count}-{fit.ridge:g}-{fit.corrects_from:g}.jsonl"
        scores = None if self.work is None else self.work / name

        def told(computed: frozenset[int], score: float, best: float, left: float) -> None:
            if score <= best and len(computed) == count:  # an exchange tries others, too
                self.progress(f"{count} computed steps: score {score:.2f}, {left:.0f} s left")

        return Search(fit, Journal(scores), told=told)

    def _learned(self, fit: Fit, computed: frozenset[int], tried: int) -> Learned:
        found = learned(fit, computed, tried)
        close = found.measured["fit"]
        self.progress(
            f"{len(computed)} computed steps: {close['db_mean']:.1f} dB in the latents on {fit.count} samples "
            f"(worst {close['db_worst']:.1f}), {tried} schedules tried"
        )
        return found


class Learned(NamedTuple):
    """A schedule, its plan, and what a profile says was measured then."""

    computed: frozenset[int]
    plan: Plan
    measured: dict[str, Any]


def learned(fit: Fit, computed: frozenset[int], tried: int) -> Learned:
    """What all samples teach on this schedule, which is one of ``tried``."""
    track = fit.follow(computed)
    close = _closeness(fit.errors(track), fit.reference)
    chosen = {"ridge": fit.ridge, "corrects_from": fit.corrects_from}
    return Learned(computed, fit.plan(track), {"fit": {"samples": fit.count, **close, **chosen}, "tried": tried})


class _Budget:
    """Of a whole search: trials for each number of computed steps, or seconds from now on for all of them."""

    def __init__(self, trials: int | None, seconds: float) -> None:
        self._trials, self._seconds, self._began = trials, seconds, time.monotonic()

    def share(self, count: int, left: Sequence[int], *, kept: float = 0.0, fewer: int = 1) -> Allowance:
        """That of ``count`` computed steps, where ``left`` are still to come (in seconds, in proportion to them)."""
        if self._trials is not None:
            return Allowance(self._trials // fewer)
        seconds = self._seconds * (1.0 - kept) - (time.monotonic() - self._began)
        return Allowance(seconds=max(0.0, seconds) * count / sum(left))


def _begun(begin: Profile | None, reference: Reference, count: int) -> list[frozenset[int]]:
    """Schedules of another profile, and of the universal one, at these noise levels; stretched where a profile has none
    of so many steps."""
    profiles = [] if begin is None else [begin]
    if (path := named().get(universal(reference.coordinate.name))) is not None:
        profiles.append(Profile.load(path))
    found = []
    for profile in profiles:
        near = min(max(count, min(profile.plans)), max(profile.plans))
        steps = profile.plan(near).steps(reference.levels)
        if len(steps) != count:
            steps = stretched(sorted(steps), count, reference.steps)
        steps |= reference.forced
        found += [steps] if len(steps) == count else []
    return found


def _beside(found: Mapping[int, Learned], count: int, reference: Reference) -> list[frozenset[int]]:
    """Schedules of one computed step less with one more, the widest gap first; those of one more with one less."""
    less = found[count - 1].computed
    begun = [less | {k} for k in middles(less, reference.steps)]
    if count + 1 in found:
        more = found[count + 1].computed
        begun += [more - {k} for k in sorted(more - reference.forced)]
    return begun


def _shaped(reference: Reference, count: int) -> list[frozenset[int]]:
    """Schedules of smooth shapes and an even one, where no step is forced that they have not."""
    found = [shape.steps(count, reference.steps) for shape in starts.BEGIN]
    found.append(frozenset(evenly(count, reference.steps)))
    return [steps for steps in found if reference.forced <= steps]


def latents_given(module: nn.Module, spec: ModelSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    given = arguments(module, args, kwargs).get(spec.denoised[0])
    return given.detach() if isinstance(given, Tensor) else None


def _closeness(errors: Tensor, reference: Reference) -> dict[str, float]:
    """How far results are from the uncached ones, in dB below their own mean square: mean and worst."""
    power = distances(reference.track.samples[-1], [torch.zeros_like(x) for x in reference.track.samples[-1]])
    decibels = -10.0 * ((errors + 1e-20) / power).log10()
    return {"db_mean": round(float(decibels.mean()), 2), "db_worst": round(float(decibels.min()), 2)}
