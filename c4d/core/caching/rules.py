"""A caching method: rules of where, when and what instead, and what of it makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from c4d.core.types import BASES, OUTPUT, SITES, STACK, FeatureForecaster, Forecaster, Policy, Probe


@dataclass(frozen=True)
class Rule:
    """One composition: where (``at``) x when (``policy``) x what instead (``forecast``).

    ``at`` lists kinds of sites: ``"stack"`` (the hidden state after all blocks), ``"output"`` (what the transformer
    returns), or module kinds that the model's spec declares (``MODULE_KINDS``; those it lacks are skipped).
    ``base`` says what a feature stored at the stack or the output is relative to: ``"input"`` (that of the blocks, or
    the latents) or ``"zero"`` (nothing).
    ``start`` is the published warm-up guard: features from before this step are dropped as soon as a later one is
    there, so that with E warm-up steps and ``start`` = E - 2 differences of order 1 first appear at step E - 1 and
    those of order 2 one full step later. The first ``head`` and the last ``tail`` blocks run on every step, also on a
    reused one; a head needs a policy that measures it (``Probe.HEAD``).
    """

    at: tuple[str, ...]
    policy: Policy[Any]
    forecast: Forecaster
    base: str = "input"
    start: int = 0
    head: int = 1
    tail: int = 0

    def __post_init__(self) -> None:
        if not self.at or (unknown := [site for site in self.at if site not in SITES]):
            raise ValueError(
                f"unknown site {', '.join(unknown) if self.at else '(none)'}: known are {', '.join(SITES)}"
            )
        if self.base not in BASES:
            raise ValueError(f"unknown base {self.base!r}: known are {', '.join(BASES)}")
        if self.whole and len(self.at) > 1:
            raise ValueError(
                f"{'+'.join(self.at)}: a reused {STACK!r} or {OUTPUT!r} reaches no other site; name it alone"
            )
        if self.at == (OUTPUT,) and (late := sorted(p.value for p in self.policy.probes if not p.outside)):
            raise ValueError(
                f"a rule at {OUTPUT!r} decides before the transformer runs, but {type(self.policy).__name__} measures "
                f"{', '.join(late)} inside it: use @{STACK}"
            )
        if isinstance(self.forecast, FeatureForecaster) and not set(self.at) <= set(self.forecast.at):
            raise ValueError(
                f"{type(self.forecast).__name__} reads the features of a whole pass, not {', '.join(self.at)}: use "
                f"@{' or @'.join(self.forecast.at)}"
            )
        if self.tail and isinstance(self.forecast, FeatureForecaster) and self.forecast.needs_grid:
            raise ValueError(
                f"{type(self.forecast).__name__} works on the grid of image tokens, and before a tail of {self.tail} "
                "blocks text is forecast, too: use tail=0"
            )
        if (self.head != 1 or self.tail) and (Probe.HEAD not in self.policy.probes or self.at != (STACK,)):
            raise ValueError(
                f"head={self.head}, tail={self.tail}: blocks that always run need a policy that measures them, at "
                f"@{STACK} (first-block)"
            )
        if self.tail and self.base != "input":
            raise ValueError(f"before a tail of {self.tail} blocks what is stored is a residual: use base='input'")
        if self.head < 1 or self.tail < 0:
            raise ValueError(f"head must be at least 1 and tail at least 0, got head={self.head}, tail={self.tail}")
        if not self.whole and self.policy.probes:
            raise ValueError(
                f"{type(self.policy).__name__} measures {', '.join(sorted(p.value for p in self.policy.probes))} once "
                f"for the whole pass: use @{STACK} instead of @{','.join(self.at)}"
            )

    @cached_property
    def whole(self) -> bool:
        """True if the rule decides for the whole pass, False if it acts at modules inside the blocks."""
        return STACK in self.at or OUTPUT in self.at


@dataclass(frozen=True)
class CacheMethod:
    """A caching method: its name (the text that makes it) and its rules."""

    name: str
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError(f"{self.name}: a method needs at least one rule")
        sites = [site for rule in self.rules for site in rule.at]
        if len(sites) != len(set(sites)) or (len(self.rules) > 1 and any(rule.whole for rule in self.rules)):
            raise ValueError(f"{self.name}: rules overlap at {', '.join(sites)}; each site takes one rule")

    @cached_property
    def probes(self) -> frozenset[Probe]:
        """Everything that its policies measure; empty: no pass waits for the device."""
        return frozenset(probe for rule in self.rules for probe in rule.policy.probes)

    @cached_property
    def whole(self) -> Rule | None:
        """The rule for the whole pass, None if the method acts at modules."""
        return self.rules[0] if self.rules[0].whole else None
