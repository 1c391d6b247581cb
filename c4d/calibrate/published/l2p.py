"""L2P's weights, arXiv 2604.26365: for each step that is not computed, those of the last computed features.

    min_w  sum |h(t) - sum_j w[t][j] h(A_j)|^2

h is the hidden state after the blocks, A_j are the last computed steps before t. The sum is over branches of guidance
and samplings. The paper comes there by gradient descent; it is solved here, with a small ridge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from c4d.calibrate.calibration import Calibration, Fitted, Record, calibration, steps_of
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.recording import Run

RIDGE = 1e-8  # of the mean square of the features
EVERY = 4  # step is computed, and the last one, unless somebody says which


def gram(features: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """[T, T] fp64 inner products of the features of T steps, summed over the branches."""
    grams = [(h := torch.stack(list(steps)).flatten(1).double()) @ h.T for steps in features.values()]
    return torch.stack(grams).sum(0)


def weights(products: Tensor, computed: Sequence[int], count: int, ridge: float = RIDGE) -> dict[str, list[float]]:
    """Step -> the weights of the last ``count`` computed features before it, by the inner products of all [T, T]."""
    table = {}
    for t in range(len(products)):
        if t in computed:
            continue
        past = [step for step in computed if step < t][-count:]
        square = products[past][:, past]
        square = square + ridge * square.diagonal().mean() * torch.eye(len(past), dtype=torch.float64)
        table[str(t)] = torch.linalg.solve(square, products[past, t]).tolist()
    return table


@dataclass(frozen=True)
class L2P(Calibration):
    """``computed``: the schedule; None: every fourth step and the last."""

    computed: tuple[int, ...] | None
    count: int
    features: ClassVar[bool] = True

    def reduce(self, run: Run) -> Record:
        return {"gram": run.summed(gram(run.hidden)).tolist()}

    def fit(self, records: Sequence[Record]) -> Fitted:
        total = steps_of(records)
        computed = list(self.computed or (*range(0, total - 1, EVERY), total - 1))
        if computed[-1] >= total:
            raise CalibrationError(
                f"step {computed[-1]} is to be computed, and the samplings have {total} (0 to {total - 1})"
            )
        products = torch.tensor([record["gram"] for record in records], dtype=torch.float64).sum(0)
        found = weights(products, computed, self.count)
        said = f"weights of {len(found)} steps between {len(computed)} computed ones of {total}"
        data = {"steps": total, "computed": computed, "weights": found}
        return Fitted(data, {"samples": len(records), "features": self.count}, [f"{said}, from {len(records)} samples"])

    def use(self, fitted: Fitted) -> str:
        return ""


@calibration("l2p")
def l2p(computed: tuple[int, ...] | None = None, features: int = 3) -> Calibration:
    """For a schedule, the weights of the last computed features that leave the least squared error.

    ``computed``: its computed steps, such as 0/1/2/5/8 (default: every fourth, and the last); ``features``: of how many
    of the last ones a forecast is made. The hidden state after the blocks is kept on the host at every step of a
    sampling, in fp32.
    """
    if computed is not None and list(computed) != sorted({0, *computed}):
        raise ValueError(
            f"computed={'/'.join(map(str, computed))}: rising numbers of steps from 0, which is among them"
        )
    if features < 1:
        raise ValueError(f"features must be a whole number of at least 1, got {features}")
    return L2P(computed, features)
