"""Which branch of guidance a call without a name belongs to: told by the tensors that it is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from c4d.core.runtime.steps import RunError


class Identity(NamedTuple):
    """Of a tensor as long as it lives: where it lies, without keeping it or reading it."""

    storage: Any  # a StorageWeakRef
    view: tuple[Any, ...]

    @classmethod
    def of(cls, x: Tensor) -> Identity:
        weak: Any = StorageWeakRef
        return cls(weak(x.untyped_storage()), (x.storage_offset(), x.shape, x.stride(), x.dtype))

    def same(self, other: Identity | None) -> bool:
        if other is None or self.storage.expired() or other.storage.expired():
            return False
        return bool(self.storage.cdata == other.storage.cdata) and self.view == other.view


Conditioning = Mapping[str, Identity]


class Branches:
    """Those of one run whose calls have no names, numbered as they come in its first step.

    A loop passes the same text tensors in every step, whatever the order of its calls, so they say whose call it is
    when guidance begins, ends or sits out a step. Where a loop makes them anew each time, or has the same for every
    call (windows of one picture), the order of the calls has to say it, and as soon as their number changes that is an
    error.
    """

    def __init__(self) -> None:
        self._known: dict[str, Conditioning] = {}
        self._kept: dict[str, set[str]] = {}  # arguments that were the same in the last two calls
        self._taken: list[str] = []  # in this step
        self._before = 0  # calls in the step before
        self._index: int | None = None
        self._guessed = False  # in this step

    def place(self, index: int, tensors: Mapping[str, Tensor]) -> str:
        """The branch of a call in step ``index`` with these ``tensors``, by name; raises RunError if none can tell."""
        if index != self._index:
            self._next(index)
        given = {name: Identity.of(x) for name, x in tensors.items()}
        label = str(len(self._taken)) if self._before == 0 else self._find(given)
        self._taken.append(label)
        if self._guessed and len(self._taken) > self._before:
            self._refuse(len(self._taken))
        known = self._known.get(label, {})
        self._kept[label] = {name for name, identity in given.items() if identity.same(known.get(name))}
        self._known[label] = given
        return label

    def _next(self, index: int) -> None:
        if self._guessed and len(self._taken) != self._before:
            self._refuse(len(self._taken))
        self._index, self._before, self._guessed = index, len(self._taken), False
        self._taken = []

    def _find(self, given: Conditioning) -> str:
        telling = self._telling() or set(given)
        score = {
            label: sum(given[name].same(known.get(name)) for name in telling & given.keys())
            for label, known in self._known.items()
        }
        best = max(score.values())
        if best == 0 and all(telling & kept for kept in self._kept.values()):
            return str(len(self._known))  # what would be the same is not: it is a new one
        likely = [label for label, n in score.items() if n == best]
        free = [label for label in likely if label not in self._taken]
        if not free:
            return str(len(self._known))
        alone = len(self._known) == 1 and not any(self._kept.values()) and best < len(given)
        self._guessed |= best == 0 or len(likely) > 1 or alone
        return free[0]

    def _telling(self) -> set[str]:
        """The arguments in which branches differ; of a single one, those that stay the same."""
        if len(self._known) == 1:
            (kept,) = self._kept.values()
            return kept
        first, *others = self._known.values()
        return {name for name, x in first.items() if not all(x.same(other.get(name)) for other in others)}

    def _refuse(self, now: int) -> None:
        raise RunError(
            f"a step has {now} calls without names, and the one before had {self._before}: whose they are cannot be "
            'told. Name them, with transformer.cache_context("cond"): …, or give every step the same text tensors'
        )
