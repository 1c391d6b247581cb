"""One generation: every mutable thing of a run lives here, keyed by branch and expert."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from c4d.core.caching.rules import Rule
from c4d.core.caching.selectors import Clusters
from c4d.core.runtime.branches import Branches
from c4d.core.runtime.guidance import Answers
from c4d.core.runtime.history import History, HistoryConfig
from c4d.core.runtime.outputs import storages
from c4d.core.runtime.signals import DecisionSync, SignalReader
from c4d.core.runtime.spectrum import low_pass
from c4d.core.types import FeatureForecaster, Forecaster, LinearForecaster, Predicted, Primitives, Signal, Step


@dataclass
class TokenMemory:
    """What a branch remembers of single tokens; by the key of a module's history, or the stream that they are of."""

    when: dict[str, Tensor] = field(default_factory=dict)  # [B, S] fp32: the step at which each was computed
    clusters: dict[str, Clusters] = field(default_factory=dict)
    frames: dict[str, list[Tensor]] = field(default_factory=dict)  # as in TokenView
    cells: dict[str, Tensor] = field(default_factory=dict)  # [S] int64: the cell of the grid of each
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # of a block, stream -> [B, S] fp32

    def tensors(self) -> list[Tensor]:
        alone = self.when, self.cells, *self.weights.values()
        several = self.clusters, self.frames
        return [x for held in alone for x in held.values()] + [
            x for held in several for xs in held.values() for x in xs
        ]


@dataclass
class CacheState:
    """What one branch on one expert remembers within a run; empty until its first :meth:`reset`."""

    states: list[Any] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    before: dict[Signal, Tensor] = field(default_factory=dict)
    # (now, before) and how many numbers all ranks have, of what the last forward left to be measured
    left: dict[Signal, tuple[tuple[Tensor, Tensor], int]] = field(default_factory=dict)
    tokens: TokenMemory = field(default_factory=TokenMemory)
    grid: tuple[tuple[int, ...], ...] | None = None  # of its tokens, if somebody asked
    signature: Any = None
    ends: tuple[int, int] | None = None  # the first and last blocks that ran on every step when it was stored
    unstored: bool = False  # a forward returned what cannot be, and nothing of it was
    last: int = -1  # the step of its last forward
    threaded: bool = False  # whether each block of a computed forward got what the one before it returned, untouched

    def storages(self, parked: bool = True) -> dict[int, int]:
        held = {p: n for history in self.histories.values() for p, n in history.storages(parked).items()}
        measured = (*self.before.values(), *(x for pair, _ in self.left.values() for x in pair), *self.tokens.tensors())
        return held | storages(measured)

    def reset(self, rules: Sequence[Rule]) -> None:
        self.states = [rule.policy.init() for rule in rules]
        self.histories.clear()
        self.before.clear()
        self.left.clear()
        self.tokens = TokenMemory()
        self.grid = None
        self.unstored = False


def signature_of(arguments: Iterable[Any]) -> list[Any]:
    """Shape, dtype and device of every tensor among the arguments of a forward, nested ones too; and switches."""
    found: list[Any] = []
    for x in arguments:
        if isinstance(x, Tensor):
            found.append((x.shape, x.dtype, x.device))
        elif isinstance(x, (list, tuple)):
            found += signature_of(x)
        elif isinstance(x, dict):
            found += signature_of(x.values())
        elif isinstance(x, bool | str):
            found.append(x)  # return_dict, the mode of a KV cache
    return found


@dataclass
class Run:
    """One generation: its number, the loop of a followed pipeline that makes it (None: another's), and its branches."""

    number: int
    loop: Any = None
    unnamed: Branches = field(default_factory=Branches)
    answers: Answers = field(default_factory=Answers)
    branches: defaultdict[tuple[str, int], CacheState] = field(default_factory=lambda: defaultdict(CacheState))
    # (branch, expert, rows) -> the step of its first forward, and how often its latents stand in the batch
    copies: dict[tuple[str, int, int], tuple[int, int]] = field(default_factory=dict)
    # key of a module's history -> step, shape of its tokens, and those [B, k] that the first branch of the step picked
    picked: dict[str, tuple[int, torch.Size, Tensor]] = field(default_factory=dict)

    def bytes(self, parked: bool = True) -> int:
        """Held; without what is ``parked``, on the device alone."""
        held = self.answers.storages()
        held.update(storages(x for *_, x in self.picked.values()))
        for branch in self.branches.values():
            held.update(branch.storages(parked))
        return sum(held.values())

    def forget(self, rules: Sequence[Rule]) -> None:
        """Drops the memory of every branch."""
        self.answers = Answers()
        self.picked.clear()
        for branch in self.branches.values():
            branch.reset(rules)

    def release(self, done: CacheState, rules: Sequence[Rule]) -> None:
        """Drops the memory of a branch after its last step, and of branches that the step before did not call: the
        expert was left, or guidance ended."""
        for branch in self.branches.values():
            if branch is done or branch.last < done.last - 1:
                branch.reset(rules)
        if not any(branch.histories for branch in self.branches.values()):
            self.picked.clear()


@dataclass
class Runtime:
    """What every forward of a session works with.

    A forecast's weights are made once a step, however many modules and branches use them.
    """

    backend: Primitives
    meter: SignalReader
    storage: HistoryConfig
    nonfinite: int = 0
    weights: dict[tuple[Any, ...], Sequence[float]] = field(default_factory=dict)
    weights_for: float = -1.0  # the time of the step that they were made for
    of_runs: dict[tuple[Any, ...], LinearForecaster] = field(default_factory=dict)  # by id, steps and levels of a run

    bases: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)  # of slow waves over a grid of tokens
    beyond: dict[torch.device, Tensor] = field(default_factory=dict)  # whether a feature left the range of its storage

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Notes, without waiting for the device, whether any of these features is too large to be stored."""
        for x in tensors if self.storage.dtype is not None else ():
            if x.is_floating_point() and not x.is_meta and 2 * self.storage.most < torch.finfo(x.dtype).max:
                beyond = x.detach().abs().amax() > self.storage.most
                self.beyond[x.device] = self.beyond[x.device] | beyond if x.device in self.beyond else beyond

    def overflowed(self, wait: bool) -> bool:
        """Whether one was, counted once; for a device other than the CPU only if the host is to ``wait`` for it."""
        ready = [device for device in self.beyond if wait or device.type == "cpu"]
        found = sum(bool(self.beyond.pop(device)) for device in ready)
        self.nonfinite += found
        return found > 0

    def forecast(
        self,
        history: History,
        forecaster: Forecaster,
        t: float,
        of: FeatureOps,
        base: Sequence[Tensor] | None = None,
        latents: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> list[Tensor]:
        """Every tensor of ``history`` forecast at ``t``, plus its ``base``; in the dtype of that, else as it came.

        ``latents`` of now and of the last computed step for each, for a forecaster that reads them.
        """
        features = [history.features(i) for i in range(history.width)]
        if latents:
            pairs = zip(features, latents, strict=True)
            features = [[*held, *(x.to(held[-1].dtype) for x in pair)] for held, pair in pairs]
        if isinstance(forecaster, FeatureForecaster):
            made = [forecaster.combine(held, history.times, t, replace(of, index=i)) for i, held in enumerate(features)]
        else:
            assert isinstance(forecaster, LinearForecaster)  # there is no third kind (Rule)
            weights = self._weights(history, forecaster, t)
            if base is not None and not forecaster.num_forecasts:
                return [
                    self.backend.lincomb([x, *held], [1.0, *weights]) for x, held in zip(base, features, strict=True)
                ]
            made = [self.backend.lincomb(held, weights) for held in features]
        if forecaster.num_forecasts:
            self.watch(made)
            history.push(Predicted(t), made)
        if base is not None:
            return [x + y.to(x.dtype) for x, y in zip(base, made, strict=True)]
        return [x.to(dtype) for x, dtype in zip(made, history.dtypes, strict=True)]

    def corrected(
        self,
        history: History,
        weights: Sequence[float],
        computed: Sequence[Tensor],
        latents: Sequence[tuple[Tensor, Tensor]],
    ) -> list[Tensor]:
        """Every tensor that was ``computed``, the newest entry of ``history``, as its forecaster hands it on.

        ``weights``: those of :meth:`LinearForecaster.handed_on`; ``latents`` as of :meth:`forecast`.
        """
        before, made = len(history.times) - 1, []
        ordered = [weights[before], *weights[:before], *weights[before + 1 :]]
        for i, (x, pair) in enumerate(zip(computed, latents, strict=True)):
            past = history.features(i)[:before]
            # It leads, in whose dtype the result is: what is stored may be of fewer bits.
            made.append(self.backend.lincomb([x, *past, *(each.to(x.dtype) for each in pair)], ordered))
        return made

    def of_run(self, forecaster: LinearForecaster, step: Step) -> LinearForecaster:
        """What forecasts in the run of ``step``, made once: its identity tells its weights apart."""
        key = id(forecaster), step.total, step.levels
        if key not in self.of_runs:
            self.of_runs[key] = forecaster.of_run(step)
        return self.of_runs[key]

    def basis(self, grid: tuple[tuple[int, ...], ...], cutoff: float, device: torch.device) -> Tensor:
        """:func:`low_pass`, made once."""
        key = (grid, device)  # a session has one cutoff
        if key not in self.bases:
            self.bases = {key: low_pass(grid, cutoff).to(device)}
        return self.bases[key]

    def _weights(self, history: History, forecaster: LinearForecaster, t: float) -> Sequence[float]:
        if t != self.weights_for:
            self.weights, self.weights_for = {}, t
        key = (id(forecaster), history.times, history.predicted)  # a forecaster lives as long as its method
        if key not in self.weights:
            self.weights[key] = forecaster.weights(history.times, t)
        return self.weights[key]


CHUNK = 1 << 22  # numbers of a feature that are made fp64 at once


@dataclass(frozen=True)
class FeatureOps:
    """What a forecaster may ask of the features of ``history`` over all ranks, of its tensors the ``index``-th."""

    tools: Runtime
    history: History
    ranks: DecisionSync
    step: Step
    unpadded: Callable[[Tensor], tuple[Tensor, int]]
    low: Callable[[Tensor, float], Tensor]
    slow_waves: Callable[[Tensor, float], Tensor]
    advance: Callable[[], float]
    index: int = 0

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        return self.tools.backend.lincomb(features, weights)

    def gram(self) -> list[Tensor]:
        if self.index not in self.history.gram:
            parts = [self.unpadded(x) for x in self.history.features(self.index)]
            held, whole = [x.flatten(1) for x, _ in parts], parts[0][1]
            B, K = held[0].shape[0], len(held)
            total = held[0].new_zeros(B, K, K, dtype=torch.float64)
            for start in range(0, held[0].shape[1], CHUNK // B):
                part = torch.stack([x[:, start : start + CHUNK // B] for x in held], 1).double()
                total += part @ part.mT
            rows = self.ranks.all_sum(total.flatten(1), [(held[0].shape[1], whole // B)] * B, False, apart=True)
            self.tools.meter.host_reads += 1
            self.history.gram[self.index] = [torch.tensor(row, dtype=torch.float64).view(K, K) for row in rows]
        return self.history.gram[self.index]
