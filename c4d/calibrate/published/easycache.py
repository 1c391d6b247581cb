"""EasyCache's rate over the noise level: how fast the output follows the input (k of arXiv 2507.02860, eq. 8).

    k(s) = |v(s) - v(s-1)| / |x(s) - x(s-1)|

x is the latents that the transformer is given, v what it returns, in uncached samplings. The paper measures k on the
way, between the last two computed steps; a calibrated one is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from c4d.calibrate.calibration import Calibration, Fitted, Record, calibration
from c4d.calibrate.curves import Points, averaged, fitted
from c4d.calibrate.recording import Row
from c4d.core.spec import ModelSpec
from c4d.core.types import Signal


def rates(rows: Sequence[Row]) -> Points:
    return [(row["level"], row["rate"]) for row in rows if row["rate"] is not None]


class EasyCache(Calibration):
    noise: ClassVar[bool] = True

    def signals(self, specs: Sequence[ModelSpec]) -> frozenset[Signal]:
        return frozenset({Signal.INPUT})

    def fit(self, records: Sequence[Record]) -> Fitted:
        return fitted(averaged(records, rates), records, "rate")

    def use(self, fitted: Fitted) -> str:
        return "threshold=0.05,warmup=3"


@calibration("easycache")
def easycache() -> Calibration:
    """Curves over the noise level of how fast the output follows the latents, for each branch and each expert."""
    return EasyCache()
