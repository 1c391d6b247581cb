"""TeaCache's polynomials, arXiv 2411.19108: how far what is reused changes, by the change of a signal.

    x = sum |m(s) - m(s-1)| / sum |m(s-1)|,   y = the same of the residual R of the blocks (or of the output)
    y = p(x)

over all steps, branches of guidance and prompts of uncached samplings. The paper fits y of the output; the rule reuses
the residual, so that is what p is fitted to here unless somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from c4d.calibrate.calibration import Calibration, Fitted, Pairs, Record, by_branch, calibration
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.polynomials import SHAPES, Polynomial, explained
from c4d.calibrate.recording import Row, finite
from c4d.core.caching.policies import Accumulate, Bounded
from c4d.core.spec import ModelSpec
from c4d.core.types import Action, Policy, RelativeL1, Signal, Step

TARGETS = ("residual", "output")
LEAST = 0.3  # of R^2: noise has 0 or less
HELD = 4  # one in so many prompts is held out
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)  # of the steps that are computed, for each of which a threshold is looked for
NEAR = 0.05  # a share that no threshold comes nearer to is not listed
GREATEST, HALVINGS = 100.0, 40  # of thresholds that are tried


class Candidate(NamedTuple):
    """A signal: its fits by their shape, R^2 of each on what was held out, and how many pairs they are made of.

    ``why_not``: there are no fits.
    """

    fits: Mapping[str, Polynomial]
    held_out: Mapping[str, float]
    pairs: int
    left_out: int
    why_not: str | None = None


@dataclass(frozen=True)
class TeaCache(Calibration):
    """``signal``: by itself the one that predicts best."""

    signal: str | None
    target: str
    shape: str
    least: float

    def signals(self, specs: Sequence[ModelSpec]) -> frozenset[Signal]:
        """All that is known on every step, and the first block's residual beside them."""
        known = [set(spec.measurable()) for spec in specs]
        return frozenset(s for s in set.intersection(*known) if s.stepwise or s is Signal.FIRST_BLOCKS)

    def of_differences(self, runs: Mapping[str, Pairs]) -> list[Record]:
        if self.signal is None:
            known = ", ".join(signal.value for signal in Signal if signal.stepwise)
            raise CalibrationError(
                f"recorded differences do not say of which signal they are: give it, teacache:signal=… (known: {known})"
            )
        records = list[Record]()
        for name, pairs in runs.items():
            rows: list[Row] = []
            for index, (x, y) in enumerate(pairs, 1):
                row: Row = {"branch": "", "expert": 0, "index": index, "total": len(pairs) + 1, "begins": False}
                rows.append({**row, "changes": {self.signal: finite(x)}, self.target: finite(y)})
            records.append({"prompt": name, "steps": len(pairs) + 1, "rows": rows})
        return records

    def fit(self, records: Sequence[Record]) -> Fitted:
        learned, held, how = split(records)
        names = sorted({name for record in records for row in record["rows"] for name in row["changes"]})
        if self.signal is not None and self.signal not in names:
            raise CalibrationError(f"signal {self.signal!r} was not measured: there are {', '.join(names) or 'none'}")
        found = {name: self._candidate(name, learned, held) for name in names}
        allowed = [name for name in names if Signal(name).stepwise and self.signal in (None, name)]
        scores = {name: found[name].held_out[self.shape] for name in allowed if self.shape in found[name].held_out}
        best = max(scores, key=scores.__getitem__, default=None)
        if best is None or not scores[best] >= self.least:
            raise CalibrationError(
                f"no signal predicts how far the {self.target} changes: R^2 of the {self.shape} fit on samples that it "
                f"was not fitted to is {'; '.join(self._said(name, each) for name, each in found.items())}; below "
                f"{self.least:g} a fit is refused (teacache:least=…). Give more prompts or steps, or another method"
            )
        chosen, fit = found[best], found[best].fits[self.shape]
        made_of = {**how, "pairs": chosen.pairs, "left_out": chosen.left_out, "target": self.target}
        thresholds = thresholds_of(Signal(best), fit, records)
        data = {"signal": best, "coefficients": list(fit.coefficients), "range": [fit.low, fit.high]}
        figures = {
            "made_of": made_of,
            "held_out_r2": scores[best],
            "shape": self.shape,
            "candidates": {name: _told(each) for name, each in found.items()},
            "thresholds": thresholds,
        }
        return Fitted(data, figures, list(self._lines(best, found, made_of, thresholds)))

    def use(self, fitted: Fitted) -> str:
        told = {each["computed"]: each["threshold"] for each in fitted.figures["thresholds"]}
        nearest = min(told, key=lambda share: abs(share - 0.4), default=None)
        return "threshold=…" if nearest is None else f"threshold={told[nearest]:.4g}"

    def _candidate(self, name: str, learned: Sequence[Record], held: Sequence[Record]) -> Candidate:
        (x, y, bad), (held_x, held_y, held_bad) = self._pairs(name, learned), self._pairs(name, held)
        try:
            fits = {shape: make(x, y) for shape, make in SHAPES.items()}
        except ValueError as error:
            return Candidate({}, {}, len(x) + len(held_x), bad + held_bad, str(error))
        scores = {shape: explained(fit, held_x, held_y) for shape, fit in fits.items()}
        if None in scores.values():
            why = f"the {self.target} changes alike at every step that was held out"
            return Candidate({}, {}, len(x) + len(held_x), bad + held_bad, why)
        known = {shape: score for shape, score in scores.items() if score is not None}
        return Candidate(fits, known, len(x) + len(held_x), bad + held_bad)

    def _pairs(self, name: str, records: Sequence[Record]) -> tuple[list[float], list[float], int]:
        """The changes of signal and target, and how many had to be left out because one of both is no number."""
        x, y, bad = list[float](), list[float](), 0
        for row in (row for record in records for row in record["rows"] if not row["begins"]):
            one, other = row["changes"].get(name), row[self.target]
            if one is None or other is None:
                bad += 1
            else:
                x.append(one)
                y.append(other)
        return x, y, bad

    def _said(self, name: str, candidate: Candidate) -> str:
        if candidate.why_not is not None:
            return f"{name} none ({candidate.why_not})"
        return f"{name} {candidate.held_out[self.shape]:.2f}{'' if Signal(name).stepwise else ' (the rule has not it)'}"

    def _lines(
        self,
        best: str,
        found: Mapping[str, Candidate],
        made_of: Mapping[str, Any],
        thresholds: Sequence[Mapping[str, float]],
    ) -> list[str]:
        width = max(map(len, found))
        lines = [f"{'':2}{'signal':{width}}  R^2 held out: {'  '.join(SHAPES)}"]
        for name, each in found.items():
            scores = "  ".join(f"{each.held_out[shape]:{len(shape)}.3f}" for shape in SHAPES if shape in each.held_out)
            note = "" if Signal(name).stepwise else "  (not for this rule: known after the first block)"
            lines.append(f"{'> ' if name == best else '  '}{name:{width}}  {'':14}{each.why_not or scores}{note}")
        left_out = f", {made_of['left_out']} left out that are no numbers" if made_of["left_out"] else ""
        lines.append(
            f"made of {made_of['pairs']} changes in {made_of['learned']} samples{left_out}; held out: "
            f"{made_of['held_out']} samples of {made_of['held_out_are']}"
        )
        low, high = found[best].fits[self.shape].low, found[best].fits[self.shape].high
        lines.append(
            f"range {low:.4g} to {high:.4g}: a smaller change counts as {low:.4g}, beyond it steps are computed"
        )
        lines += [
            f"threshold {each['threshold']:g} computes {each['computed']:.0%} of the steps" for each in thresholds
        ]
        return lines


def thresholds_of(signal: Signal, fit: Polynomial, records: Sequence[Record]) -> list[dict[str, float]]:
    """For shares of computed steps, the threshold that comes to them on the recorded changes."""

    def policy(threshold: float) -> Policy[Any]:
        return Bounded(Accumulate(threshold, signal, fit.coefficients, within=(fit.low, fit.high)))

    found = list[dict[str, float]]()
    for share in SHARES:
        threshold, reached = threshold_for(share, policy, records)
        if abs(reached - share) <= NEAR and threshold not in [each["threshold"] for each in found]:
            found.append({"computed": round(reached, 3), "threshold": threshold})
    return found


def threshold_for(
    share: float, policy: Callable[[float], Policy[Any]], records: Sequence[Record]
) -> tuple[float, float]:
    """The least threshold, to four digits, with which ``policy`` computes no more than ``share`` of the recorded steps,
    and the share that it computes; that of the greatest threshold, if even this computes more."""
    branches = [rows for record in records for rows in by_branch(record["rows"]).values()]
    low, high = 0.0, GREATEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if computed(policy(middle), branches) > share else (low, middle)
    threshold = float(f"{high * (1.0 + 5e-4):.4g}")  # not below it, however it is rounded
    return threshold, computed(policy(threshold), branches)


def computed(policy: Policy[Any], branches: Sequence[Sequence[Row]]) -> float:
    """The part of the recorded steps that it computes."""
    count = 0
    for rows in branches:
        state = policy.init()
        for row in rows:
            known = {Signal(name): RelativeL1(x, 1.0) for name, x in row["changes"].items() if x is not None}
            action, state = policy.decide(state, Step(row["index"], row["total"], row["branch"], row["expert"]), known)
            count += action is Action.COMPUTE
    return count / sum(map(len, branches))


def split(records: Sequence[Record]) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Those to fit to, those to judge by, and how they were told apart: by prompts, where there are several.

    Raises :class:`CalibrationError` for a single sampling.
    """
    prompts = list(dict.fromkeys(record["prompt"] for record in records))
    if len(records) < 2:
        raise CalibrationError("one sampling leaves none to judge a fit by: give a second prompt, or --samples 2")
    several = len(prompts) > 1
    if several:
        apart = set(prompts[-max(1, len(prompts) // HELD) :])
        held = [record for record in records if record["prompt"] in apart]
    else:
        held = list(records[-max(1, len(records) // HELD) :])
    learned = [record for record in records if not any(record is each for each in held)]
    how = {
        "prompts": len(prompts),
        "learned": len(learned),
        "held_out": len(held),
        "held_out_are": "other prompts" if several else "the same prompt under other noise",
    }
    return learned, held, how


def _told(candidate: Candidate) -> dict[str, Any]:
    if candidate.why_not is not None:
        return {"why_not": candidate.why_not}
    return {
        shape: {
            "held_out_r2": candidate.held_out[shape],
            "coefficients": list(fit.coefficients),
            "range": [fit.low, fit.high],
        }
        for shape, fit in candidate.fits.items()
    }


@calibration("teacache")
def teacache(
    signal: str | None = None, target: str = "residual", shape: str = "monotone", least: float = LEAST
) -> Calibration:
    """A polynomial from the change of a signal to that of what is reused.

    ``signal``: by itself the one that predicts best on prompts that were held out. ``target``: what is to be
    predicted, the blocks' residual, which the rule reuses, or the output, as in the paper. ``shape``: monotone, of the
    least squared error among those that never fall and are never negative; or least-squares, as in the paper.
    ``least``: an R^2 below it on what was held out is refused.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}: known are {', '.join(TARGETS)}")
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}: known are {', '.join(SHAPES)}")
    known = [each.value for each in Signal if each.stepwise]
    if signal not in (None, *known):
        raise ValueError(f"unknown signal {signal!r}: known are {', '.join(known)}")
    return TeaCache(signal, target, shape, least)
