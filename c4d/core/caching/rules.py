"""Rules of caching: where x when x what instead. A kind of rule for each kind of place, so that none can be combined
wrongly; a method is one rule for the whole forward, or several for modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from c4d.core.caching.selectors import Selector
from c4d.core.types import (
    BLOCKS,
    GUIDANCE,
    MODULE_KINDS,
    OUTPUT,
    SITES,
    FeatureForecaster,
    Forecaster,
    LinearForecaster,
    Policy,
    Signal,
    Step,
)


@dataclass(frozen=True)
class Rule:
    """When (``policy``) and what instead (``forecast``); where, its subclasses say.

    ``drop_before`` is the published warm-up guard: features from before this step are dropped as soon as a later one
    is there, so that with E warm-up steps and ``drop_before`` = E - 2 differences of order 1 first appear at step
    E - 1 and those of order 2 one full step later.
    """

    policy: Policy[Any]
    forecast: Forecaster
    drop_before: int = field(default=0, kw_only=True)

    @property
    def sites(self) -> tuple[str, ...]:
        """What it caches, as ``@`` names it."""
        raise NotImplementedError(f"{type(self).__name__} is of no place: use BlocksRule, OutputRule or ModuleRule")

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy):
            raise TypeError(f"policy is {self.policy!r}; give an instance of a subclass of c4d.Policy")
        if not isinstance(self.forecast, LinearForecaster | FeatureForecaster):
            kinds = "c4d.LinearForecaster or c4d.FeatureForecaster"
            raise TypeError(f"forecast is {self.forecast!r}; give an instance of a subclass of {kinds}")
        if isinstance(self.forecast, FeatureForecaster) and not set(self.sites) <= set(self.forecast.sites):
            raise ValueError(
                f"{type(self.forecast).__name__} reads the features of a whole forward, not {', '.join(self.sites)}: "
                f"use @{' or @'.join(self.forecast.sites)}"
            )
        if isinstance(self.forecast, LinearForecaster) and self.forecast.reads_latents and self.sites != (OUTPUT,):
            raise ValueError(
                f"{type(self.forecast).__name__} makes outputs of outputs and latents, not {', '.join(self.sites)}: "
                f"use @{OUTPUT}"
            )


@dataclass(frozen=True)
class ForwardRule(Rule):
    """A rule for the whole forward: it decides once, for everything.

    What is stored is relative to the input (of the blocks, or the latents) if it is the ``residual``.
    """

    residual: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if Signal.DRAFT in self.policy.signals:
            raise ValueError(
                f"{type(self.policy).__name__} verifies forecasts of modules by those of the last block, and at "
                f"{', '.join(self.sites)} there are none: leave @ out"
            )


@dataclass(frozen=True)
class BlocksRule(ForwardRule):
    """At ``"blocks"``: the hidden state after all blocks; on a cached step none of them runs.

    The first ``first_blocks`` and the last ``last_blocks`` blocks run on every step, also on a cached one; what is
    stored is that of the blocks between. A policy may decide by the first ones (``Signal.FIRST_BLOCKS``). If they are
    ``probe`` alone, what is stored is that of all blocks, and takes the place of what the first ones gave, too. With a
    ``turn`` (a part of the run) the first ones run on every step before it alone, and the last ones from it on.
    """

    first_blocks: int = field(default=0, kw_only=True)
    last_blocks: int = field(default=0, kw_only=True)
    probe: bool = field(default=False, kw_only=True)
    turn: float | None = field(default=None, kw_only=True)

    @property
    def sites(self) -> tuple[str, ...]:
        return (BLOCKS,)

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """How many first and last blocks run on every step: of the run, or before and after the turn."""
        first, last = self.first_blocks, self.last_blocks
        return ((first, last),) if self.turn is None else ((first, 0), (0, last))

    def ends_at(self, step: Step) -> tuple[int, int]:
        """Those of a step."""
        late = self.turn is not None and step.index >= self.turn * step.total
        return self.ends[late]

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.first_blocks, self.last_blocks
        if last and isinstance(self.forecast, FeatureForecaster) and self.forecast.needs_grid:
            raise ValueError(
                f"{type(self.forecast).__name__} works on the grid of image tokens, and before the last {last} "
                "blocks text is forecast, too: use last_blocks=0"
            )
        measured = any(signal.first for signal in self.policy.signals)
        if self.probe and (last or not measured):
            raise ValueError("blocks that are a probe are there to be measured, and no others run: last_blocks=0")
        if isinstance(self.forecast, FeatureForecaster) and self.forecast.reads_probe and not measured:
            raise ValueError(f"{type(self.forecast).__name__} needs first blocks that are measured: first_blocks=1")
        if (first or last) and not measured and (late := [p.value for p in self.policy.signals if not p.outside]):
            raise ValueError(
                f"first_blocks={first}, last_blocks={last}: blocks that always run need a decision before them or by "
                f"them, and {type(self.policy).__name__} measures {', '.join(sorted(late))}"
            )
        if last and not self.residual:
            raise ValueError(f"before the last {last} blocks what is stored is a residual: use residual=True")
        if self.turn is not None and (measured or not 0.0 < self.turn < 1.0 or not (first and last)):
            raise ValueError(
                f"turn={self.turn!r} is a part of the run, at which first_blocks and last_blocks (both of them; now "
                f"{first} and {last}) take turns, whatever they would measure"
            )
        if first < measured or last < 0:
            raise ValueError(
                f"first_blocks must be at least {int(measured)} and last_blocks at least 0, got first_blocks={first}, "
                f"last_blocks={last}"
            )


@dataclass(frozen=True)
class OutputRule(ForwardRule):
    """At ``"output"``: what the transformer returns; on a cached step nothing of it runs."""

    @property
    def sites(self) -> tuple[str, ...]:
        return (OUTPUT,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if late := sorted(p.value for p in self.policy.signals if not p.outside):
            raise ValueError(
                f"a rule at {OUTPUT!r} decides before the transformer runs, but {type(self.policy).__name__} measures "
                f"{', '.join(late)} inside it: use @{BLOCKS}"
            )


@dataclass(frozen=True)
class ModuleRule(Rule):
    """At the outputs of modules inside the blocks, of ``kinds``; those that a model lacks are skipped.

    ``leading``: in so many of the first blocks alone; None is all of them.
    """

    kinds: tuple[str, ...] = MODULE_KINDS
    leading: int | None = field(default=None, kw_only=True)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.kinds

    def __post_init__(self) -> None:
        unknown = [site for site in self.sites if site not in MODULE_KINDS]
        if unknown and set(self.sites) & {BLOCKS, OUTPUT} and len(self.sites) > 1:
            raise ValueError(
                f"{'+'.join(self.sites)}: a cached {BLOCKS!r} or {OUTPUT!r} reaches no other site; name it alone"
            )
        if unknown or not self.sites:
            raise ValueError(f"unknown site {', '.join(unknown) or '(none)'}: known are {', '.join(SITES)}")
        super().__post_init__()
        if self.leading is not None and self.leading < 1:
            raise ValueError(f"a rule is for at least 1 of the leading blocks, got {self.leading}")
        if measured := sorted(p.value for p in self.policy.signals if p is not Signal.DRAFT):
            raise ValueError(
                f"{type(self.policy).__name__} measures {', '.join(measured)} once "
                f"for the whole forward: use @{BLOCKS} instead of @{','.join(self.sites)}"
            )


ROWS = ("cross_attn", "mlp")  # kinds of modules that may compute some of their tokens


@dataclass(frozen=True)
class TokenRule(ModuleRule):
    """The same, for a policy that has partial steps: on such a one, modules of the kinds ``rows`` compute the tokens
    that ``select`` picks, beside what is forecast of the others; modules of other kinds are forecast.

    Only modules that handle each token by itself can (:class:`c4d.core.spec.Site`); others are forecast too.
    """

    select: Selector = field(kw_only=True)
    rows: tuple[str, ...] = field(default=ROWS, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if Signal.DRAFT in self.policy.signals:
            raise ValueError(f"{type(self.policy).__name__} verifies forecasts, not tokens: use a ModuleRule")
        if self.forecast.num_forecasts or not isinstance(self.forecast, LinearForecaster):
            raise ValueError(
                f"{type(self.forecast).__name__} makes forecasts of forecasts, or of whole features, and tokens that "
                "are computed in between have no place in it: use reuse, or taylor"
            )


@dataclass(frozen=True)
class GuidanceRule(Rule):
    """At ``"guidance"``: the call without condition; on a cached step nothing of it runs.

    Its output is made of what the conditional call returned in the same step, plus the forecast of the difference of
    the two. So both have to be calls of their own, the conditional one first, with names (``cache_context``); or one
    batch, of which the spec says which half is the ``conditional`` one, and half of whose rows do not run then. With
    :class:`~c4d.core.caching.forecasters.Nothing` the difference is none: guidance has no effect on such a step.
    """

    @property
    def sites(self) -> tuple[str, ...]:
        return (GUIDANCE,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy.signals:
            raise ValueError(
                f"a rule of guidance decides by the step alone, but {type(self.policy).__name__} measures "
                f"{', '.join(sorted(p.value for p in self.policy.signals))}"
            )


BATCHES = ("mean", "worst", "each")


def remade(rule: Rule, sites: tuple[str, ...] | None = None, forecast: Forecaster | None = None) -> Rule:
    """``rule`` at other ``sites`` or with another ``forecast``. Raises ValueError for what does not go together."""
    if isinstance(rule, GuidanceRule) and sites is not None:
        raise ValueError(f"guidance is of whole outputs and has no other site; leave @{','.join(sites)} out")
    sites, forecast = sites or rule.sites, forecast or rule.forecast
    if isinstance(rule, BlocksRule) and sites != (BLOCKS,) and (rule.first_blocks or rule.last_blocks):
        given = f"first_blocks={rule.first_blocks}, last_blocks={rule.last_blocks}"
        raise ValueError(f"{given}: blocks that always run belong to a cache of blocks, @{BLOCKS}")
    if isinstance(rule, TokenRule):
        if set(sites) & {BLOCKS, OUTPUT}:
            raise ValueError(f"tokens are computed inside the blocks, not {', '.join(sites)}: leave @ out")
        return replace(rule, kinds=sites, forecast=forecast)
    if sites == rule.sites:
        return replace(rule, forecast=forecast)
    parts, drop_before = (rule.policy, forecast), rule.drop_before
    if sites == (OUTPUT,):
        return OutputRule(*parts, residual=False, drop_before=drop_before)  # an output is not a residual
    if sites == (BLOCKS,):
        residual = rule.residual if isinstance(rule, ForwardRule) else True
        return BlocksRule(*parts, residual=residual, drop_before=drop_before)
    return ModuleRule(*parts, sites, drop_before=drop_before, leading=getattr(rule, "leading", None))


def moves(rules: Sequence[Rule], site: str) -> bool:
    """Whether a method of these rules, but for one of guidance, can be written with ``@site`` behind it."""
    acting = [rule for rule in rules if not isinstance(rule, GuidanceRule)]
    try:
        return len([remade(rule, (site,)) for rule in acting]) == 1
    except ValueError:
        return False


@dataclass(frozen=True)
class CacheMethod:
    """A caching method: its name (the text that makes it), its rules, one of guidance last, and how the samples of a
    ``batch`` decide.

    ``"each"``: each for itself, so that it gets what it gets alone; a step computes the samples that need it. It is
    what a method does that measures something for the whole forward (None). ``"worst"``: all alike, by the sample that
    changed most. ``"mean"``: all alike, by the sums over all of them, as published. Where nothing is measured, and
    inside the blocks, samples are alike.
    """

    name: str
    rules: tuple[Rule, ...]
    batch: str | None = None

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError(f"{self.name}: a method needs at least one rule")
        if self.batch not in (None, *BATCHES):
            raise ValueError(f"{self.name}: batch is {self.batch!r}; known are {', '.join(BATCHES)}")
        sites = self.sites
        alone = any(isinstance(rule, ForwardRule) for rule in self.inner)
        if isinstance(self.whole, BlocksRule) and all(isinstance(rule, TokenRule) for rule in self.inner[1:]):
            alone = False  # tokens are computed on the steps that run the blocks
        if any(isinstance(rule, GuidanceRule) for rule in self.rules[:-1]):
            raise ValueError(f"{self.name}: a rule of guidance is one, and the last of a method")
        if len(sites) != len(set(sites)) or (len(self.inner) > 1 and alone):
            raise ValueError(f"{self.name}: rules overlap at {', '.join(sites)}; each site takes one rule")

    def batched(self, batch: str) -> CacheMethod:
        """The same, with samples that decide so. Raises ValueError if it measures nothing, or for an unknown one."""
        if not self.signals:
            raise ValueError(f"{self.name} decides by the step alone, the same for every sample: leave batch out")
        if self.whole is None and batch != "mean":
            raise ValueError(
                f"{self.name} acts inside the blocks, where the samples of a batch decide alike: batch=mean"
            )
        return replace(self, batch=batch)

    def apart(self, batch_first: bool) -> bool:
        """Whether samples have memories of their own; at blocks without ``batch_first`` streams only if asked for."""
        if not self.signals or self.whole is None or self.batch == "mean":
            return False
        return self.batch is not None or batch_first or not isinstance(self.whole, BlocksRule)

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that a rule is for, in their order."""
        return tuple(site for rule in self.rules for site in rule.sites)

    @cached_property
    def signals(self) -> frozenset[Signal]:
        """Everything that its policies measure; empty: no forward waits for the device."""
        return frozenset(signal for rule in self.rules for signal in rule.policy.signals)

    @cached_property
    def guidance(self) -> GuidanceRule | None:
        """The rule that spares calls without condition, None if there is none."""
        rule = self.rules[-1]
        return rule if isinstance(rule, GuidanceRule) else None

    @cached_property
    def inner(self) -> tuple[Rule, ...]:
        """The rules of a forward that runs: all but that of guidance."""
        return self.rules if self.guidance is None else self.rules[:-1]

    @cached_property
    def whole(self) -> ForwardRule | None:
        """The rule for the whole forward, None if there is none."""
        rule = self.rules[0]
        return rule if isinstance(rule, ForwardRule) else None

    @cached_property
    def inside(self) -> bool:
        """Whether it acts at modules inside the blocks."""
        return any(isinstance(rule, ModuleRule) for rule in self.rules)
