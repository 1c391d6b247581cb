"""CFG skipping, ``cfg_skip_ratio`` of github.com/aigc-apps/VideoX-Fun: the last steps run without their second call.

    s >= T (1 - r):  u(s) = c(s), so that  u + g (c - u) = c  for every guidance scale g
    otherwise:       u(s) is computed

u is the output of the call without condition, c that of the conditional one in the same step. s is the step, T their
number and r the ``ratio``. It is of whole runs, both experts together.

Recommended there: r from 0 to 0.25.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.forecasters import Nothing
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE
from c4d.core.caching.rules import GuidanceRule, Rule
from c4d.core.types import Action, Measured, Policy, RelativeL1, Signal, Step


@dataclass(frozen=True)
class LastPart(Policy[None]):
    """Spares the last ``ratio`` of a run, from the first step at or after that place."""

    ratio: float

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not 0.0 < self.ratio <= 1.0:
            raise ValueError(f"ratio is a part of the steps, above 0 and at most 1, got {self.ratio!r}")

    def init(self) -> None:
        return None

    def decide(self, state: None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, None]:
        return (REUSE if step.index >= step.total * (1.0 - self.ratio) - 1e-9 else COMPUTE), None

    def idle(self, total: int, measured: Measured) -> str:
        return f"the last {self.ratio:g} of {total} steps is less than one"


@method("cfg-skip", example="cfg-skip:ratio=0.25")
def cfg_skip(ratio: float) -> Rule:
    """CFG skipping: in the last part of a run the call without condition is spared, and guidance has no effect.

    VideoX-Fun (github.com/aigc-apps/VideoX-Fun), ``cfg_skip_ratio``; recommended 0 to 0.25. Beside another method:
    ``taylorseer:interval=3+cfg-skip:ratio=0.25``. It needs calls that pipelines name, the conditional one first; or
    both in one batch, of which the model's spec says which half is which.
    """
    return GuidanceRule(LastPart(ratio), Nothing())
