"""BudCache's steps, arXiv 2606.13496: those under a budget with which the last latents of one prompt are nearest.

    min_{A, |A| = B}  mean |x_T - x'_T(A)|^2

x_T are the last latents of the uncached sampling and x'_T(A) those with the steps A computed, the first among them, and
the residual of the blocks reused on the others. A is searched as in :func:`c4d.core.caching.step_search.annealed`: each
set that is tried is a cached sampling, up to about 300 of them.

The authors' second stage, which learns other noise levels for the chosen steps, is left out: it goes down the gradient
of the whole sampling (adjacent levels by a softmax, so that they fall; the error of the latents, or LPIPS), and what it
finds is a sampler, which no cache changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from c4d.calibrate.calibration import Calibration, Fitted, Record, Sampling, calibration, steps_of
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.fit import Agreed
from c4d.calibrate.pipeline import last_latents
from c4d.calibrate.search import Allowance, Journal, Scores, Spent
from c4d.core.caching.policies import whole_number
from c4d.core.caching.step_search import annealed, evenly
from c4d.core.methods.budcache import budcache as method


class Losses:
    """By what sets of steps miss the uncached sampling; each is sampled once, also over several calls that keep a
    ``journal``."""

    def __init__(self, sampling: Sampling, minutes: float | None, steps: int, reference: Tensor) -> None:
        self._sampling, self._journal = sampling, Journal(sampling.journal)
        self._agreed: Agreed = list if sampling.ranks is None else sampling.ranks.common
        self._allowed = Allowance(seconds=math.inf if minutes is None else 60 * minutes)
        self.found = dict[tuple[int, ...], float]()
        self.steps, self._reference = steps, reference

    def __call__(self, computed: Sequence[int]) -> float:
        """Raises :class:`Spent` once time is up, but for the first set."""
        kept = self._journal.get(frozenset(computed))
        (loss,) = self._agreed([math.nan if kept is None else kept.searched])
        if math.isnan(loss):
            if self.found:
                self._allowed.take(self._agreed)
            (loss,) = self._agreed([self._sampled(computed)])
            self._journal[frozenset(computed)] = Scores(loss, loss)
        if loss < min(self.found.values(), default=math.inf):
            listed = "/".join(map(str, computed))
            self._sampling.told(f"set {len(self.found) + 1}: mean squared error {loss:.4g} with steps {listed}")
        self.found[tuple(computed)] = loss
        return loss

    def _sampled(self, computed: Sequence[int]) -> float:
        with self._sampling.opened(method(computed=tuple(computed), steps=self.steps)):
            made = last_latents(self._sampling.pipe, self._sampling.make)
        loss = float((made - self._reference).double().pow(2).mean())
        return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True)
class BudCache(Calibration):
    """``budget``: how many steps are computed; ``minutes``: how long to search, None: to the end."""

    budget: int
    minutes: float | None
    seed: int
    alone: ClassVar[bool] = True

    @property
    def kept_as(self) -> str:
        return f"{super().kept_as} of {self.budget}, seed {self.seed}"

    def record(self, sampling: Sampling) -> Record:
        run, reference = self.recorded(sampling, partial(last_latents, sampling.pipe, sampling.make))
        losses, whole = Losses(sampling, self.minutes, int(run.rows[-1]["total"]), reference), True
        try:
            even = losses(evenly(self.budget, losses.steps))
            annealed(losses, self.budget, losses.steps, self.seed)
        except Spent:
            whole = False
        except ValueError as error:
            raise CalibrationError(str(error)) from error
        best = min(losses.found, key=losses.found.__getitem__)
        if math.isinf(losses.found[best]):
            raise CalibrationError(f"no set of {self.budget} steps that was tried gives latents that are numbers")
        return {
            "steps": losses.steps, "computed": list(best), "loss": losses.found[best],
            "even": even if math.isfinite(even) else None, "tried": len(losses.found), "whole": whole,
        }  # fmt: skip

    def fit(self, records: Sequence[Record]) -> Fitted:
        (record,) = records
        data = {"steps": steps_of(records), "computed": record["computed"]}
        figures = {key: record[key] for key in ("loss", "even", "tried", "whole")}
        even = "no number" if record["even"] is None else f"{record['even']:.4g}"
        said = f"{len(data['computed'])} of {data['steps']} steps: {'/'.join(map(str, data['computed']))}"
        ended = "" if record["whole"] else " (time was up: with more minutes= the search goes on)"
        told = f"mean squared error {record['loss']:.4g}, of even steps {even}; {record['tried']} sets tried{ended}"
        return Fitted(data, figures, [said, told])

    def use(self, fitted: Fitted) -> str:
        return ""


@calibration("budcache")
def budcache(budget: int, minutes: float | None = None, seed: int = 0) -> Calibration:
    """The computed steps, ``budget`` of them, with which the last latents of one prompt are nearest to the uncached.

    Each set of steps that is tried, up to about 300, is a sampling; what it lost is kept, so that an interrupted search
    goes on. ``minutes``: after so many the best set so far is taken. ``seed``: of the search.
    """
    whole_number("budget", budget, 2)
    if minutes is not None and not minutes > 0.0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    return BudCache(budget, minutes, seed)
