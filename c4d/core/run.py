"""One generation: every mutable thing of a run lives here, keyed by branch and expert."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from c4d.core.history import History, Storage
from c4d.core.measure import Meter
from c4d.core.types import Forecaster, Primitives, Probe, Rule


@dataclass
class Branch:
    """What one branch on one expert remembers within a run; empty until its first :meth:`reset`."""

    states: list[Any] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    before: dict[Probe, Tensor] = field(default_factory=dict)
    signature: Any = None
    last: int = -1  # the step of its last pass

    def storages(self) -> dict[int, int]:
        held = {p: n for history in self.histories.values() for p, n in history.storages().items()}
        held.update({(s := x.untyped_storage()).data_ptr(): s.nbytes() for x in self.before.values()})
        return held

    def reset(self, rules: Sequence[Rule]) -> None:
        self.states = [rule.policy.init() for rule in rules]
        self.histories.clear()
        self.before.clear()


def signature_of(arguments: Iterable[Any]) -> list[Any]:
    """Shape, dtype and device of every tensor among the arguments of a forward, nested ones too."""
    found: list[Any] = []
    for x in arguments:
        if isinstance(x, Tensor):
            found.append((x.shape, x.dtype, x.device))
        elif isinstance(x, (list, tuple)):
            found += signature_of(x)
        elif isinstance(x, dict):
            found += signature_of(x.values())
    return found


@dataclass
class Run:
    """One generation: its number and its branches."""

    number: int
    branches: defaultdict[tuple[str, int], Branch] = field(default_factory=lambda: defaultdict(Branch))

    def bytes(self) -> int:
        held: dict[int, int] = {}
        for branch in self.branches.values():
            held.update(branch.storages())
        return sum(held.values())

    def release(self, done: Branch, rules: Sequence[Rule]) -> None:
        """Drops the memory of a branch after its last step, and of those that no longer take part: they sat out the
        step before (an expert that was left, a guidance that ended)."""
        for branch in self.branches.values():
            if branch is done or branch.last < done.last - 1:
                branch.reset(rules)


@dataclass
class Tools:
    """What every pass of a session works with.

    A forecast's weights are made once a step, however many modules and branches use them.
    """

    backend: Primitives
    meter: Meter
    storage: Storage
    nonfinite: int = 0
    weights: dict[tuple[int, tuple[float, ...]], Sequence[float]] = field(default_factory=dict)
    weights_for: float = -1.0  # the time of the step that they were made for

    def forecast(
        self, history: History, forecaster: Forecaster, t: float, i: int = 0, base: Tensor | None = None
    ) -> Tensor:
        """The i-th tensor of ``history`` forecast at ``t``, plus ``base``; in the dtype of ``base``, else its own."""
        if t != self.weights_for:
            self.weights, self.weights_for = {}, t
        key = (id(forecaster), history.times)  # a forecaster lives as long as its method
        weights = self.weights.get(key)
        if weights is None:
            weights = self.weights[key] = forecaster.weights(history.times, t)
        features = history.features(i)
        return self.backend.lincomb(*((features, weights) if base is None else ([base, *features], [1.0, *weights])))
