"""The words of c4d: actions, signals, steps; what policies and forecasters are; what the core needs of a backend."""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")

BLOCKS, OUTPUT, GUIDANCE = "blocks", "output", "guidance"
MODULE_KINDS = ("attn", "cross_attn", "mlp", "total")
SITES = (BLOCKS, OUTPUT, *MODULE_KINDS)
AXES = ("step", "sigma")


class Action(enum.Enum):
    """What a step does at a site: compute it, compute some of its tokens (``TokenRule``), or reuse what was stored."""

    COMPUTE = "compute"
    PARTIAL = "partial"
    REUSE = "reuse"


class Signal(enum.Enum):
    """A tensor whose change a policy may ask for before it decides."""

    TIME_EMBEDDING = "time_embedding"  # the embedded timestep, before its projection to modulations
    TIME_PROJECTION = "time_projection"  # the modulation vectors projected from it
    MODULATED_INPUT = "modulated_input"  # the first block's input after its adaptive norm
    FIRST_BLOCKS = "first_blocks"  # the residual of the first block, which therefore runs on every step
    PROBE = "probe"  # the hidden state after the first blocks, which therefore run on every step
    ENTRY = "entry"  # the hidden state before the blocks; known as late as that after the first ones
    INPUT = "input"  # the latents that the transformer is given
    INPUT_SINCE = "input_since"  # the same, compared with the last computed step
    OUTPUT = "output"  # the last two computed outputs; ``base`` is of the newer
    SPECTRUM = "spectrum"  # the latents weighted in frequency by what the noise leaves of them (arXiv 2602.18993)
    DRAFT = "draft"  # what the last block adds with forecast modules, compared with what it adds with computed ones

    @property
    def anchored(self) -> bool:
        """True if it is compared with the last computed step, False if with the previous step."""
        return self in (Signal.FIRST_BLOCKS, Signal.INPUT_SINCE)

    @property
    def stepwise(self) -> bool:
        """True if every step, also one that runs no block, knows its change since the step before."""
        return not self.anchored and not self.left and not self.first

    @property
    def first(self) -> bool:
        """True if it is known after the first blocks (``BlocksRule.first_blocks``)."""
        return self in (Signal.FIRST_BLOCKS, Signal.PROBE, Signal.ENTRY)

    @property
    def left(self) -> bool:
        """True if a forward leaves it behind, to be measured by the next one that decides."""
        return self in (Signal.OUTPUT, Signal.DRAFT)

    @property
    def outside(self) -> bool:
        """True if it is known before the transformer runs."""
        return self.left or self in (Signal.INPUT, Signal.INPUT_SINCE, Signal.SPECTRUM)


class RelativeL1(NamedTuple):
    """How far a signal moved: ``delta`` = sum|now - before|, ``base`` = sum|before|, both over all ranks."""

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
    """Where a forward stands: ``index`` of ``total`` over the whole run (all experts together), branch, expert.

    ``span`` is the first step of its expert and the one after its last, if the pipeline tells; else None.
    ``timestep`` is that of the scheduler, told to policies and forecasters that are ``timed``; else None. ``levels``
    are the noise levels of all steps of the run, told to those that are ``by_noise``; else None.
    """

    index: int  # type: ignore[assignment]
    total: int
    branch: str
    expert: int = 0
    span: tuple[int, int] | None = None
    timestep: float | None = None
    levels: tuple[float, ...] | None = None


Measured = Sequence[tuple[Step, Mapping[Signal, RelativeL1]]]


class Scale(NamedTuple):
    """What a policy weighs, in words, and the ``threshold`` that it compares it with."""

    what: str
    threshold: float


class Policy(ABC, Generic[S]):
    """When to compute. Pure and on the host: no tensors, no device.

    A fresh state (``init()``) must always decide COMPUTE: the session resets a policy to it whenever there is nothing
    valid to reuse (first step, new expert, changed shape, non-finite measurement). Only a policy of guidance that
    reuses nothing stored need not. What is optional has a default here, and :class:`Wrapper` passes all of it on.
    """

    @property
    def signals(self) -> frozenset[Signal]:
        """What must be measured first; empty means that no forward ever waits for the device."""
        return frozenset()

    @property
    def timed(self) -> bool:
        """Whether it decides by the scheduler's timesteps (``Step.timestep``), read from the device once a run."""
        return False

    @property
    def by_noise(self) -> bool:
        """Whether it decides by the noise levels of the run's steps (``Step.levels``)."""
        return False

    @property
    def calibrated_for(self) -> Mapping[str, Any] | None:
        """The model that it was made for (:func:`c4d.core.integration.transformers.signature`), None for any."""
        return None

    @property
    def steps(self) -> int | None:
        """Of how many steps a run has to be; None takes any."""
        return None

    @property
    def scale(self) -> Scale | None:
        """What :meth:`weigh` gives, and its threshold; None if it decides by no number."""
        return None

    def weigh(self, state: S, step: Step, seen: Mapping[Signal, RelativeL1]) -> float | None:
        """The number that :meth:`decide` compares with its threshold; None where it decides this step without one."""
        return None

    @abstractmethod
    def init(self) -> S: ...
    @abstractmethod
    def decide(self, state: S, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, S]: ...

    def idle(self, total: int, measured: Measured) -> str:
        """In words, why a run of ``total`` steps that ``measured`` this reused nothing."""
        return f"{type(self).__name__} computed every step"

    def remark(self, total: int) -> str | None:
        """What of it a run of ``total`` steps had no use for; None if nothing."""
        return None


class DraftPolicy(Policy[S]):
    """One that has some of its reuses, the drafts, verified: their last block is computed beside its forecast.

    How far the two are apart is ``Signal.DRAFT`` of the next decision. If it is ``strict``, it is measured at once, and
    :meth:`settle` may say that the step is computed after all.
    """

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset({Signal.DRAFT})

    @property
    def strict(self) -> bool:
        return False

    @property
    def elementwise(self) -> bool:
        """Whether it takes the mean of |a - b| / |b| over all elements, instead of sum |a - b| / sum |b|."""
        return False

    @abstractmethod
    def verifies(self, state: S) -> bool:
        """Whether the reuse that led to ``state`` is verified."""

    def settle(self, state: S, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, S]:
        """What a verified draft comes to, in the same step; ``state`` is that after the decision."""
        return Action.REUSE, state


class Wrapper(Policy[S]):
    """A policy around ``inner``: whatever it does not say itself, the inner one says."""

    inner: Policy[Any]

    @property
    def signals(self) -> frozenset[Signal]:
        return self.inner.signals

    @property
    def timed(self) -> bool:
        return self.inner.timed

    @property
    def by_noise(self) -> bool:
        return self.inner.by_noise

    @property
    def calibrated_for(self) -> Mapping[str, Any] | None:
        return self.inner.calibrated_for

    @property
    def steps(self) -> int | None:
        return self.inner.steps

    @property
    def scale(self) -> Scale | None:
        return self.inner.scale

    def idle(self, total: int, measured: Measured) -> str:
        return self.inner.idle(total, measured)

    def remark(self, total: int) -> str | None:
        return self.inner.remark(total)


class Predicted(float):
    """The time of a feature that was itself forecast."""


class Forecaster(ABC):
    """What instead: made of the last ``num_features`` computed features.

    ``over`` says what its times are: step indices, or noise levels ("sigma"). Its last ``num_forecasts`` forecasts stay
    among the features, at times of the class ``Predicted``.
    """

    @property
    @abstractmethod
    def num_features(self) -> int: ...
    @property
    def over(self) -> str:
        return "step"

    @property
    def num_forecasts(self) -> int:
        return 0

    @property
    def timed(self) -> bool:
        """Whether it reads the scheduler's timestep (``FeatureOps.step``)."""
        return False


class LinearForecaster(Forecaster):
    """A forecast that is a linear combination of the features, by their times alone: one ``lincomb`` on any backend."""

    @property
    def reads_latents(self) -> bool:
        """Whether two weights more follow: of the latents now, and of those of the last computed step."""
        return False

    @property
    def by_noise(self) -> bool:
        """Whether :meth:`of_run` reads the noise levels of the run's steps (``Step.levels``)."""
        return False

    def of_run(self, step: Step) -> LinearForecaster:
        """What forecasts in the run of ``step``: of so many steps, at these noise levels."""
        return self

    @abstractmethod
    def weights(self, times: Sequence[float], t: float) -> Sequence[float]:
        """One weight for each of ``times`` (oldest first) to predict time ``t``."""

    def handed_on(self, times: Sequence[float]) -> Sequence[float] | None:
        """What a computed step hands on, of one that :attr:`reads_latents`: weights of its features (itself the last of
        ``times``), of the latents now, and of those of the computed step before. None: itself."""
        return None


class FeatureOps(Protocol):
    """What a forecaster that reads the features may ask of them."""

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float]) -> Tensor: ...
    @property
    def step(self) -> Step:
        """The step of the forecast; its timestep if the forecaster is ``timed``."""
        ...

    def low(self, x: Tensor, cutoff: float) -> Tensor:
        """Of tokens [B, S, D], what changes over their grid no faster than ``cutoff`` of the fastest; a collective."""
        ...

    def slow_waves(self, x: Tensor, part: float) -> Tensor:
        """Of an output, its Fourier waves over the last two sides up to ``part`` of the shorter one a picture; fp32."""
        ...

    def gram(self) -> list[Tensor]:
        """[K, K] fp64 inner products of the K features of each sample, on the host; one read, one collective."""
        ...

    def advance(self) -> float:
        """How far the first blocks' residual r is beyond the last computed one, |r - r_2| / |r_1 - r_2|.

        r_2 and r_1 are those of the last two computed steps, |.| sums over all ranks. For a forecaster that
        ``reads_probe``; one read, one collective a forward.
        """
        ...


class FeatureForecaster(Forecaster):
    """A forecaster whose result depends on what the features are, not on their times alone.

    It works at ``sites``, on models that tell their grid of tokens if it ``needs_grid``, on those whose blocks return
    no other stream than the hidden state if it is for ``one_stream``, and on backends that compute in fp64 if it
    ``needs_double``.
    """

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]: ...
    @property
    def needs_grid(self) -> bool:
        return False

    @property
    def one_stream(self) -> bool:
        return False

    @property
    def needs_double(self) -> bool:
        return False

    @property
    def reads_probe(self) -> bool:
        """Whether it asks how far the first blocks' residual has gone (``FeatureOps.advance``)."""
        return False

    @abstractmethod
    def combine(self, features: Sequence[Tensor], times: Sequence[float], t: float, field: FeatureOps) -> Tensor:
        """The forecast at ``t`` of ``features`` (oldest first)."""


class Parked(NamedTuple):
    """A tensor kept on the host, and the device it came from."""

    tensor: Tensor
    device: torch.device


@dataclass
class Fetching:
    """A tensor on its way from the host; here one that is there already. Memory for it is held from the beginning."""

    tensor: Tensor

    def wait(self) -> Tensor:
        """The tensor, on which later work of the device's current stream waits; the host does not. It may be asked
        for again."""
        return self.tensor


class Primitives(Protocol):
    """What the core needs of a backend (the whole protocol: ``c4d.backends.base``)."""

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor: ...
    def change(self, now: Tensor, before: Tensor) -> Tensor: ...
    def offload(self, x: Tensor) -> Parked: ...
    def begin_fetch(self, parked: Parked) -> Fetching: ...
    def fetch(self, parked: Parked) -> Tensor: ...
