"""The words of c4d: actions, probes, steps, rules, methods, model specs, and the protocols of their parts."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

S = TypeVar("S")

STACK, OUTPUT = "stack", "output"
MODULE_KINDS = ("attn", "cross_attn", "mlp", "total")
SITES = (STACK, OUTPUT, *MODULE_KINDS)
BASES = ("input", "zero")


class Action(enum.Enum):
    COMPUTE = "compute"
    REUSE = "reuse"


class Probe(enum.Enum):
    """A tensor whose change a policy may ask for before it decides."""

    TIME_EMBEDDING = "time_embedding"  # the embedded timestep, before its projection to modulations
    TIME_PROJECTION = "time_projection"  # the modulation vectors projected from it
    MODULATED_INPUT = "modulated_input"  # the first block's input after its adaptive norm
    HEAD = "head"  # the residual of the first block, which therefore runs on every step

    @property
    def anchored(self) -> bool:
        """True if it is compared with the last computed step, False if with the previous step."""
        return self is Probe.HEAD


class Change(NamedTuple):
    """How far a probe moved: ``delta`` = sum|now - before|, ``base`` = sum|before|, both over all ranks."""

    delta: float
    base: float

    @property
    def ratio(self) -> float:
        """The relative L1 change; an all-zero ``before`` gives infinity unless nothing moved."""
        if self.base == 0.0:
            return 0.0 if self.delta == 0.0 else math.inf
        return self.delta / self.base

    @property
    def finite(self) -> bool:
        return math.isfinite(self.delta) and math.isfinite(self.base)


class Step(NamedTuple):
    """Where a pass stands: ``index`` of ``total`` over the whole run (all experts together), branch, expert."""

    index: int  # type: ignore[assignment]
    total: int
    branch: str
    expert: int = 0


@runtime_checkable
class Policy(Protocol[S]):
    """When to compute. Pure and on the host: no tensors, no device.

    ``probes`` names what must be measured first; empty means that no pass ever waits for the device.
    A fresh state (``init()``) must always decide COMPUTE: the session resets a policy to it whenever there is nothing
    valid to reuse (first step, new expert, changed shape, non-finite measurement).
    """

    @property
    def probes(self) -> frozenset[Probe]: ...
    def init(self) -> S: ...
    def decide(self, state: S, step: Step, seen: Mapping[Probe, Change]) -> tuple[Action, S]: ...


Measured = Sequence[tuple[Step, Mapping[Probe, Change]]]


@runtime_checkable
class Explains(Protocol):
    """A policy that can say in words why a run of ``total`` steps that ``measured`` this reused nothing."""

    def idle(self, total: int, measured: Measured) -> str: ...


@runtime_checkable
class Remarks(Protocol):
    """A policy that can tell what of it a run of ``total`` steps had no use for; None if nothing."""

    def remark(self, total: int) -> str | None: ...


@runtime_checkable
class Forecaster(Protocol):
    """What instead: a linear combination of the last ``history`` stored features."""

    @property
    def history(self) -> int: ...
    def weights(self, times: Sequence[float], t: float) -> Sequence[float]:
        """One weight for each of ``times`` (oldest first, at most ``history`` of them) to predict time ``t``."""
        ...


class Parked(NamedTuple):
    """A tensor kept on the host, and the device it came from."""

    tensor: Tensor
    device: torch.device


class Primitives(Protocol):
    """What the core needs of a backend (the whole protocol: ``c4d.backends.base``)."""

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor: ...
    def change(self, now: Tensor, before: Tensor) -> Tensor: ...
    def offload(self, x: Tensor) -> Parked: ...
    def fetch(self, parked: Parked) -> Tensor: ...


@dataclass(frozen=True)
class Rule:
    """One composition: where (``at``) x when (``policy``) x what instead (``forecast``).

    ``at`` lists kinds of sites: ``"stack"`` (the hidden state after all blocks), ``"output"`` (what the transformer
    returns), or module kinds that the model's spec declares (``MODULE_KINDS``; those it lacks are skipped).
    ``base`` says what a stored stack feature is relative to: ``"input"`` (a residual) or ``"zero"`` (itself).
    """

    at: tuple[str, ...]
    policy: Policy[Any]
    forecast: Forecaster
    base: str = "input"

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
        if self.at == (OUTPUT,) and self.policy.probes:
            raise ValueError(
                f"a rule at {OUTPUT!r} decides before the transformer runs, but {type(self.policy).__name__} measures "
                f"{', '.join(sorted(p.value for p in self.policy.probes))} inside it: use @{STACK}"
            )
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
