"""DPCache's costs, arXiv 2602.22654: what a linear forecast between two computed steps is off by.

    C[i][j][k] = sum_{j < t < k} mean |h(j) + (t - j) (h(j) - h(i)) / (j - i) - h(t)|

h is the hidden state after the blocks in an uncached sampling, i < j are computed steps and k is the next one. The mean
is over the elements of h; it is summed over the branches of guidance and averaged over the samplings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from c4d.calibrate.calibration import Calibration, Fitted, Record, calibration, steps_of
from c4d.calibrate.recording import Run

Costs = list[list[list[float]]]


def costs(features: Mapping[str, Sequence[Tensor]], whole: int | None = None) -> Costs:
    """C[i][j][k], i < j < k <= T, of branch -> the hidden state [B, tokens, D] of T steps; zero elsewhere.

    ``whole``: of how many elements the mean is, where these are a part of them.
    """
    total = len(next(iter(features.values())))
    table = [[[0.0] * (total + 1) for _ in range(total)] for _ in range(total)]
    stacks = [torch.stack(list(steps)).flatten(1) for steps in features.values()]
    count = stacks[0].shape[1] if whole is None else whole
    for i, j in combinations(range(total), 2):
        ahead = torch.arange(1, total - j)[:, None]
        errors = sum((h[j] + (h[j] - h[i]) / (j - i) * ahead - h[j + 1 :]).abs().sum(1) for h in stacks) / count
        sums = torch.cumsum(torch.as_tensor(errors), 0) if len(ahead) else torch.zeros(0)
        for k, cost in enumerate(sums.tolist(), j + 2):
            table[i][j][k] = cost
    return table


class DPCache(Calibration):
    features: ClassVar[bool] = True

    def reduce(self, run: Run) -> Record:
        return {"costs": run.summed(torch.tensor(costs(run.hidden, run.whole), dtype=torch.float64)).tolist()}

    def fit(self, records: Sequence[Record]) -> Fitted:
        total, count = steps_of(records), len(records)
        table = [
            [
                [float(f"{sum(record['costs'][i][j][k] for record in records) / count:.4g}") for k in range(total + 1)]
                for j in range(total)
            ]
            for i in range(total)
        ]
        said = f"costs of every two computed steps of {total}, mean of {count} samples"
        return Fitted({"steps": total, "costs": table}, {"samples": count}, [said])

    def use(self, fitted: Fitted) -> str:
        return f"budget={max(3, round(0.4 * fitted.data['steps']))}"


@calibration("dpcache")
def dpcache() -> Calibration:
    """What a linear forecast between two computed steps is off by, for every two of them.

    The hidden state after the blocks is kept on the host at every step of a sampling, in fp32.
    """
    return DPCache()
