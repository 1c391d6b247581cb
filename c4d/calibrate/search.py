"""The search for a schedule: which steps to compute, judged by what a fit on them leaves.

A schedule is fitted on some samples and scored on these and as many others: the mean logarithm of each result's squared
distance from the uncached one, and a quarter of the worst. A third of the samples is held back: of the schedules that
were the best one after the other, these choose, for at some point a search finds what suits its own samples alone.
Computed steps are moved one at a time, and a move that helps stays. A
pass is ended early where the samples are further from the uncached ones than the best schedule's were, two and three
computed steps after the change. What two schedules have in common is computed once. When no move helps, a computed step
is taken away where that costs least and put back where one more gains most.

The search is a pure function of the scores and of how many of them it may ask for, so that a journal of scores is all
that it takes to go on after an interruption.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from c4d.calibrate.fit import Agreed, Fit, distances
from c4d.calibrate.reference import Track
from c4d.core.caching.solver import quantile

MOVES = (-1, 1, -2, 2, -4, 4)
WORST = 0.25  # the part of the worst sample in a score
GIVEN_UP = ((2, 0.35), (3, 0.12))  # computed steps after the change, and how much worse the mean logarithm may be there
TINY = 1e-12
GAIN = 1e-3  # the least that counts as better
HOLDS_BACK = 6  # samples of which some are held back; of fewer all are searched over
RIDGES = (1e-3, 1e-4, 1e-5)  # that are tried beside a fit's own
SINCE = (0.5, 1.0)  # parts of a run from which on computed steps are corrected, likewise


Told = Callable[[frozenset[int], float, float, float], None]  # a schedule, its score, the best so far, seconds left


class Pruned(Exception):
    """A schedule is not worth the rest of its pass."""


def score(errors: Tensor) -> float:
    """Of the mean squared distances [samples]: lower is better."""
    logs = (errors + TINY).log()
    return float(logs.mean() + WORST * logs.max())


def suited(fit: Fit, computed: frozenset[int]) -> Fit:
    """The fit with the ridge, then with the corrected steps, that suit best samples which did not teach."""
    if fit.count < 2:
        return fit
    missed = cache(partial(missed_by_half, computed=computed))  # the drawn one is asked twice
    drawn = min((fit, *(fit.but(ridge=ridge) for ridge in RIDGES)), key=missed)
    return min((drawn, *(drawn.but(corrects_from=since) for since in SINCE)), key=missed)


def missed_by_half(fit: Fit, computed: frozenset[int]) -> float:
    """The score of every other sample under weights that those between have taught."""
    errors = fit.errors(fit.follow(computed, rows=range(0, fit.count, 2)))
    return score(errors[1::2])


class Scores(NamedTuple):
    """Of a schedule, on the samples that are searched over, and on those that are held back."""

    searched: float
    held: float


class Journal:
    """Scores by schedule, in memory and in a file of lines that is read again when a search goes on."""

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._scores = path, dict[tuple[int, ...], Scores]()
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    steps, *found = json.loads(line)
                    self._scores[tuple(steps)] = Scores(*(math.inf if each is None else each for each in found))
                except (ValueError, TypeError):  # the last line of a process that was killed
                    continue

    def get(self, computed: frozenset[int]) -> Scores | None:
        return self._scores.get(tuple(sorted(computed)))

    def __getitem__(self, computed: frozenset[int]) -> Scores:
        return self._scores[tuple(sorted(computed))]

    def __setitem__(self, computed: frozenset[int], found: Scores) -> None:
        steps = tuple(sorted(computed))
        self._scores[steps] = found
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps([steps, *(None if math.isinf(each) else each for each in found)]) + "\n")


class Spent(Exception):
    """The time or the trials of a search are used up."""


class Allowance:
    """What a search may take: so many trials, or seconds; a trial from the journal counts as one and takes no time."""

    def __init__(self, trials: int | None = None, seconds: float | None = None) -> None:
        self.trials, self.seconds = trials, seconds
        self.used, self._started = 0, time.monotonic()

    def take(self, agreed: Agreed) -> None:
        """Raises :class:`Spent` if there is no more, on all ranks or on none."""
        if (self.trials is not None and self.used >= self.trials) or agreed([self.left()])[0] <= 0:
            raise Spent
        self.used += 1

    def any(self) -> bool:
        """Whether there was anything to spend, which does not change as it is used up."""
        return self.seconds != 0 if self.trials is None else self.trials > 0

    def left(self) -> float:
        """Seconds."""
        return math.inf if self.seconds is None else self.seconds - (time.monotonic() - self._started)


class Search:
    """For schedules of one number of computed steps at a time, over the samples of ``fit``."""

    def __init__(
        self,
        fit: Fit,
        journal: Journal,
        *,
        seed: int = 0,
        told: Told | None = None,
    ) -> None:
        self.fit, self.journal, self._seed, self._told = fit, journal, seed, told
        self._held = list(range(2, fit.count, 3)) if fit.count >= HOLDS_BACK else []
        self._searched = [k for k in range(fit.count) if k not in self._held]
        self.rows = self._searched[::2] if fit.count > 1 else None
        self._at, self._least = frozenset[int](), math.inf  # the best schedule so far, and its score
        self._trail: list[frozenset[int]] = []  # those that were the best one after the other
        self._pass: Track | None = None  # one of them, mostly its

    def run(self, starts: Iterable[frozenset[int]], allowed: Allowance) -> frozenset[int]:
        """The best schedule found from the best of ``starts``, all of one length.

        The first is taken as it is if there is nothing to spend.
        """
        schedules = list(dict.fromkeys(starts))
        self._at, self._least, rnd = schedules[0], math.inf, random.Random(self._seed)
        self._trail = []
        try:
            for start in schedules:
                self._try(start, allowed)
            while self._moves(rnd, allowed) or self._exchange(allowed):
                pass
        except Spent:
            pass
        return min(self._trail, key=lambda computed: self.journal[computed].held, default=self._at)

    def _try(self, candidate: frozenset[int], allowed: Allowance, *, moved: bool = False) -> bool:
        """Whether it is better than what there is; then it takes its place."""
        found = self._score(candidate, allowed, pruned=moved)
        if found >= self._least - (GAIN if moved else 0.0):
            return False
        self._at, self._least = candidate, found
        self._trail.append(candidate)
        return True

    def _moves(self, rnd: random.Random, allowed: Allowance) -> bool:
        """One round of moves; whether any helped."""
        helped = False
        for place in rnd.sample(range(len(self._at)), len(self._at)):
            for by in MOVES:
                candidate = self._moved(place, by)
                helped |= candidate is not None and self._try(candidate, allowed, moved=True)
        return helped

    def _exchange(self, allowed: Allowance, tries: int = 6) -> bool:
        """One step taken away, another put into a gap: of the pairs that promise most by either change alone, the first
        that helps."""
        at, forced = self._at, self.fit.reference.forced
        less = {k: self._score(at - {k}, allowed) for k in sorted(at - forced)}
        more = {k: self._score(at | {k}, allowed) for k in middles(at, self.fit.reference.steps)}
        pairs = sorted((less[j] + more[k], j, k) for j in less for k in more if abs(j - k) > 3)
        return any(self._try(at - {j} | {k}, allowed, moved=True) for _, j, k in pairs[:tries])

    def _moved(self, place: int, by: int) -> frozenset[int] | None:
        step = sorted(self._at)[place]
        free = 0 <= step + by < self.fit.reference.steps and step + by not in self._at
        return self._at - {step} | {step + by} if free and step not in self.fit.reference.forced else None

    def _score(self, computed: frozenset[int], allowed: Allowance, *, pruned: bool = False) -> float:
        allowed.take(self.fit.agreed)
        if not self._remembered(computed):
            if pruned and (self._pass is None or self._pass.computed != self._at):
                self._pass = self._follow(self._at)  # what a candidate has in common with it is at hand
            try:
                track = self._follow(computed, self._watch(computed) if pruned else None)
                errors = self.fit.errors(track)
                found = score(errors[self._searched])
                self.journal[computed] = Scores(found, score(errors[self._held]) if self._held else found)
                if found < self._least:
                    self._pass = track
            except Pruned:
                self.journal[computed] = Scores(math.inf, math.inf)
            if self._told is not None:
                self._told(computed, self.journal[computed].searched, self._least, allowed.left())
        return self.journal[computed].searched

    def _remembered(self, computed: frozenset[int]) -> bool:
        """Whether its score is known: on several ranks, whether the first of them knows it, who tells the others."""
        mine = self.journal.get(computed)
        found = Scores(*self.fit.agreed([math.nan, math.nan] if mine is None else list(mine)))
        known = not math.isnan(found.searched)
        if known and mine is None:
            self.journal[computed] = found
        return known

    def _follow(self, computed: frozenset[int], watch: Callable[[int, Track], None] | None = None) -> Track:
        known = [] if self._pass is None else [self._pass]
        return self.fit.follow(computed, rows=self.rows, known=known, watch=watch)

    def _watch(self, computed: frozenset[int]) -> Callable[[int, Track], None]:
        best = self._pass
        assert best is not None
        wanted, last = self.fit.reference.track.samples, max(computed ^ best.computed, default=0)
        after = [k for k in sorted(computed & best.computed) if k > last]
        limits = {after[n - 1]: limit for n, limit in GIVEN_UP if n <= len(after)}

        def watch(i: int, track: Track) -> None:
            if i in limits:
                ours, theirs = (distances(t.samples[i], wanted[i]) + TINY for t in (track, best))
                if self.fit.agreed([float(ours.log().mean() - theirs.log().mean())])[0] > limits[i]:
                    raise Pruned

        return watch


def middles(computed: frozenset[int], steps: int) -> list[int]:
    """The middle of each gap between computed steps, and after the last; the widest gap first."""
    gaps = sorted(pairwise([*sorted(computed), steps]), key=lambda gap: gap[0] - gap[1])
    return [(a + b) // 2 for a, b in gaps if b - a > 1]


def stretched(computed: Sequence[int], count: int, steps: int) -> frozenset[int]:
    """``count`` steps at the quantiles of another schedule."""
    at, found = sorted(computed), list[int]()
    for j in range(count):
        level = quantile(at, j / max(1, count - 1))
        found.append(min((k for k in range(steps) if k not in found), key=lambda k: abs(k - level)))
    return frozenset(found)
