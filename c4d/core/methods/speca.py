"""SpeCa, arXiv 2509.11628: TaylorSeer's forecasts are drafts, verified by computing the last block beside its forecast.

    e = sum |r'(s) - r(s)| / sum |r(s)|,   t(s) = max(t d^(s/T), f)
    e < t accepts the draft of step s;  at most M drafts follow a computed step

r is what the last block adds to the hidden state if its modules are computed, r' if they are forecast, both from what
the forecasts before it make of step s. t is ``threshold``, d ``decay``, f ``floor``, M ``max_drafts``, and s/T the
place in the run. The first ``unchecked`` drafts after a computed step are not verified. Forecasts are TaylorSeer's.

Two modes. ``lagged`` is the authors' code: a draft that is rejected is kept, and the next step is computed. ``strict``
is what the paper describes: the step itself is computed, in a second pass. There every draft is verified unless
``unchecked`` says it, so that with a threshold and floor of 0 it is the uncached run; with an infinite one both modes
are TaylorSeer at the interval M + 1. A verification computes one block, which counts in ``Report.blocks_entered``.

Where c4d departs: the authors compare the last block's module outputs before their gate (FLUX, HunyuanVideo) or the
whole hidden state after it (DiT); what the block adds is one definition for all models. Their error is the mean of
|r' - r| / |r| over elements (``error=elementwise``), which a few elements near 0 dominate, hence a threshold of 7; the
default is the ratio of norms, for which nothing is published. Their warm-up lets a draft follow every computed step.

Published, with elementwise errors (t, d, f, unchecked, M, order, warmup): FLUX 7, 0.3, 0.1, 2, 8, 2, 3; HunyuanVideo
1, 0.1, 0.1, 4, 12, 1, 1; DiT (50 DDIM steps) 0.1, 0.01, 0.01, 2, 5, 4, 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, REUSE, never_small, whole_number
from c4d.core.caching.rules import ModuleRule, Rule
from c4d.core.types import Action, DraftPolicy, Measured, RelativeL1, Scale, Signal, Step

ERRORS, MODES = ("norms", "elementwise"), ("lagged", "strict")


@dataclass(frozen=True)
class Speculate(DraftPolicy["int | None"]):
    """Up to ``max_drafts`` drafts after a computed step, as long as their errors stay below the threshold of the step.

    That falls from ``threshold`` by ``decay`` over the run, to no less than ``floor``.
    """

    threshold: float
    decay: float
    floor: float
    unchecked: int
    max_drafts: int
    warmup: int
    last: int = 0
    strict: bool = False
    elementwise: bool = False

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("floor", self.floor)):
            if isinstance(value, bool) or not value >= 0.0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if isinstance(self.decay, bool) or not 0.0 < self.decay <= 1.0:
            raise ValueError(f"decay must be above 0 and at most 1 (1: the threshold stays), got {self.decay!r}")
        for name, count, least in (
            ("unchecked", self.unchecked, 0),
            ("max_drafts", self.max_drafts, 1),
            ("warmup", self.warmup, 1),
            ("last", self.last, 0),
        ):
            whole_number(name, count, least)

    def init(self) -> int | None:
        return None  # drafts since the last computed step

    @property
    def scale(self) -> Scale | None:
        return Scale("error of a draft, by the threshold's fall", self.threshold) if self.threshold > 0.0 else None

    def at(self, step: Step) -> float:
        """The threshold of this step."""
        fallen: float = self.threshold * self.decay ** (step.index / step.total)
        return max(fallen, self.floor)

    def weigh(self, drafts: int | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        return seen[Signal.DRAFT].ratio * self.threshold / self.at(step) if Signal.DRAFT in seen else None

    def decide(self, drafts: int | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, int]:
        edge = step.index < self.warmup or step.index >= step.total - self.last
        if drafts is None or edge or drafts >= self.max_drafts:
            return COMPUTE, 0
        return (COMPUTE, 0) if not self.strict and self._rejects(step, seen) else (REUSE, drafts + 1)

    def verifies(self, drafts: int | None) -> bool:
        return drafts is not None and drafts > self.unchecked

    def settle(self, drafts: int | None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, int | None]:
        return (COMPUTE, 0) if self._rejects(step, seen) else (REUSE, drafts)

    def _rejects(self, step: Step, seen: Mapping[Signal, RelativeL1]) -> bool:
        return Signal.DRAFT in seen and not seen[Signal.DRAFT].ratio < self.at(step)

    def idle(self, total: int, measured: Measured) -> str:
        if self.warmup + self.last >= total:
            return f"the first {self.warmup} and last {self.last} steps are always computed, and the run has {total}"
        least = min((seen[Signal.DRAFT].ratio for _, seen in measured if Signal.DRAFT in seen), default=None)
        return never_small("error of a draft", least, f"below the threshold {self.threshold:g} of its step")


@method("speca", example="speca:threshold=0.5,max_drafts=4")
def speca(
    threshold: float,
    max_drafts: int = 8,
    unchecked: int | None = None,
    decay: float = 1.0,
    floor: float = 0.0,
    order: int = 1,
    warmup: int = 1,
    last: int = 0,
    mode: str = "lagged",
    error: str = "norms",
) -> Rule:
    """SpeCa: TaylorSeer's forecasts of attention and MLP, verified by computing the last block beside its forecast.

    arXiv 2509.11628; published settings, with elementwise errors: ``speca:published=…``. ``unchecked`` is 2 if it is
    not said, as published, and 0 with ``mode=strict``, which computes a rejected step in a second pass. The host waits
    once for each verified draft.
    """
    for name, word, known in (("mode", mode, MODES), ("error", error, ERRORS)):
        if word not in known:
            raise ValueError(f"unknown {name} {word!r}: known are {', '.join(known)}")
    strict = mode == "strict"
    few = unchecked if unchecked is not None else 0 if strict else 2
    how = strict, error == "elementwise"
    policy = Speculate(threshold, decay, floor, few, max_drafts, warmup, last, *how)
    return ModuleRule(policy, Taylor(order), drop_before=warmup - 2)
