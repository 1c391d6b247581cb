"""Histories on the host that one forward reads in turns: the next ones are on their way while one is at work."""

from __future__ import annotations

from collections.abc import Iterable

from c4d.core.runtime.history import History

SITES = 2  # that are fetched ahead of the one at work: a short one between two long ones is hidden too


class ReadAhead:
    """``histories`` in the order in which they will be read; at most ``SITES`` of them lie on the device unread.

    The first ones are begun at once. One that is read out of turn is fetched then.
    """

    def __init__(self, histories: Iterable[History] = ()) -> None:
        self._later = {id(history): history for history in histories}
        self._begun: dict[int, History] = {}
        self._now: History | None = None
        self._go_on()

    def reach(self, history: History) -> None:
        """Before ``history`` is read: the one before it is let go, and further ones are begun."""
        if history is self._now:
            return
        if self._now is not None:
            self._now.let_go()
        self._now = history
        self._begun.pop(id(history), None)
        self._later.pop(id(history), None)
        self._go_on()

    def end(self) -> None:
        """After the forward: nothing of it stays on the device."""
        for history in self._begun.values():
            history.let_go()
        if self._now is not None:
            self._now.let_go()
        self._begun, self._later, self._now = {}, {}, None

    def _go_on(self) -> None:
        while self._later and len(self._begun) < SITES:
            key = next(iter(self._later))
            self._begun[key] = self._later.pop(key)
            self._begun[key].begin_fetch()
