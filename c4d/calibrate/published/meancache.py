"""MeanCache's graph, arXiv 2601.19961: by how much the forecasts of a gap between computed steps miss where it ends.

    L[i][j][k] = rms(sum_{i <= l < j} (s(l+1) - s(l)) (v(l) - v_k(l)))
    C[i][j] = L[i][j][k] ^ gamma,  for the k with the least mean L over the samplings

v is what the sampler steps with in an uncached sampling, guided, and s the noise level of a step (0 after the last). i
and j are two computed steps, j = T is the end. v_k(i) = v(i); the others are what the method ``meancache`` forecasts
after step i with that k, from the uncached v before it. gamma is ``peak``. The root mean square is over the elements of
v. The method takes the steps of a budget whose C are least in all.

With Euler's method L is how far the mean velocity of the gap is off, times its length. That length, the norm and gamma
are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from c4d.calibrate.calibration import Calibration, Fitted, Record, Sampling, by_branch, calibration, steps_of
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.pipeline import stepped_with
from c4d.calibrate.published.l2p import gram
from c4d.core.caching.forecasters import MeanVelocity
from c4d.core.types import Predicted

ORDERS = range(1, 7)  # k; the authors' go up to 6
SAME = 1e-6  # by how much the noise levels of two samplings may differ


class Gap(NamedTuple):
    """The steps from the computed step ``start`` up to ``end``, forecast with ``order``."""

    start: int
    end: int
    order: int


def missed(levels: Sequence[float]) -> dict[Gap, Tensor]:
    """By what a gap misses the sample after it: [T] fp64 weights of the outputs of all T steps."""
    s, total, found = [*levels, 0.0], len(levels), dict[Gap, Tensor]()
    true = torch.eye(total, dtype=torch.float64)
    for start in range(total):
        for order in ORDERS:
            ahead = MeanVelocity(((start, order),), tuple(levels))
            made, off = list(true[: start + 1]), true.new_zeros(total)
            times = [float(i) for i in range(start + 1)]
            for at in range(start, total):
                if at > start:
                    weights = torch.tensor(ahead.weights(times, at), dtype=torch.float64)
                    made.append((weights[:, None] * torch.stack(made)).sum(0))
                    times.append(Predicted(at))
                off = off + (s[at + 1] - s[at]) * (true[at] - made[at])
                found[Gap(start, at + 1, order)] = off
    return found


@dataclass(frozen=True)
class MeanCache(Calibration):
    """``peak``: the power of an error in a path's sum."""

    peak: float
    noise: ClassVar[bool] = True

    def record(self, sampling: Sampling) -> Record:
        run, outputs = self.recorded(sampling, partial(stepped_with, sampling.pipe, sampling.make))
        places, steps = by_branch(run.rows), run.rows[-1]["total"]
        if len({expert for _, expert in places}) > 1:
            raise CalibrationError("this model has two experts, and the forecasts of each begin anew: no graph")
        if len(outputs) != steps:
            raise CalibrationError(
                f"the sampler steps {len(outputs)} times in {steps} steps: MeanCache is for one each"
            )
        levels = [row["level"] for row in next(iter(places.values()))]
        record = {"steps": steps, "gram": (gram({"": outputs}) / outputs[0].numel()).tolist(), "levels": levels}
        return record if sampling.ranks is None else sampling.ranks.each(record)[0]

    def fit(self, records: Sequence[Record]) -> Fitted:
        total, levels = steps_of(records), torch.tensor([record["levels"] for record in records], dtype=torch.float64)
        if (levels - levels[0]).abs().max() > SAME:
            raise CalibrationError("the samplings have other noise levels each: sample all alike")
        products = torch.tensor([record["gram"] for record in records], dtype=torch.float64)
        if not products.isfinite().all():
            raise CalibrationError("outputs of these samplings are no numbers: MeanCache's costs cannot be measured")
        off = missed(levels[0].tolist())
        weights = torch.stack(list(off.values()))
        squares = torch.einsum("gi,nij,gj->gn", weights, products, weights)
        means = dict(zip(off, squares.clamp_min(0).sqrt().mean(1).tolist(), strict=True))
        data = self._tables(means, total)
        said = f"costs of every gap between two computed steps of {total}, mean of {len(records)} samples"
        return Fitted(data, {"samples": len(records), "peak": self.peak}, [said])

    def _tables(self, means: dict[Gap, float], total: int) -> dict[str, Any]:
        costs = [[0.0] * (total + 1) for _ in range(total)]
        orders = [[1] * (total + 1) for _ in range(total)]
        greatest = max(means.values()) or 1.0  # powers of numbers up to 1 neither vanish nor overflow
        for i in range(total):
            for j in range(i + 1, total + 1):
                best = min(ORDERS, key=lambda k: means[Gap(i, j, k)])
                costs[i][j] = float(f"{(means[Gap(i, j, best)] / greatest) ** self.peak:.6g}")
                orders[i][j] = best
        return {"steps": total, "costs": costs, "orders": orders}

    def use(self, fitted: Fitted) -> str:
        return f"budget={max(2, round(0.4 * fitted.data['steps']))}"


@calibration("meancache")
def meancache(peak: float = 4.0) -> Calibration:
    """What forecasts along the mean velocity miss from any computed step to another, and the k that misses least.

    ``peak``: the power of an error in the sum over a schedule; the higher, the more its largest error counts. The
    outputs of a sampling are kept on the host at every step, in fp32. For models that predict a flow.
    """
    if not peak > 0.0:
        raise ValueError(f"peak must be above 0, got {peak}")
    return MeanCache(peak)
