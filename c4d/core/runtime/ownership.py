"""Whose turn it is: the thread that makes the forwards of a run, and what each thread calls its branch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

ONE_EACH = "one pipeline per thread, one session per pipeline"


class Own(threading.local):
    """What every thread has of its own: its loops, ``name``, the branch that its next forward belongs to, and whether
    that is ``aside``, no step of any run."""

    name: str | None = None
    aside = False

    def __init__(self) -> None:
        self.loops: list[Any] = []  # those of followed pipelines that this thread is in, the innermost last


class ThreadOwnership:
    """Only the thread that opened a session's run may continue it. Any may open the next, except during a forward."""

    def __init__(self) -> None:
        self.own = Own()
        self._owner: int | None = None
        self._intruded = False  # another thread tried to make a forward of the owner's run

    @property
    def mine(self) -> bool:
        return self._owner == threading.get_ident()

    def take(self, inside: bool, running: bool, fresh: Callable[[], bool]) -> None:
        """Gives this thread the next forward, or raises RuntimeError.

        ``inside``: a forward is under way, or was left by an interrupt; ``running``: a run has been opened; ``fresh``
        tells whether the next forward opens one. A thread that was refused may have exchanged the timesteps of the
        pipeline that it shares with the owner, who would go on with a run that is none: the owner is told.
        """
        mine = self.mine
        if mine and self._intruded:
            self._intruded = False
            if fresh():
                raise RuntimeError(
                    "another thread called this pipeline in the middle of a run and may have exchanged its timesteps; "
                    f"do not use that run's result, generate again ({ONE_EACH})"
                )
        if (inside and not mine) or (running and (inside or not mine) and not fresh()):
            self._intruded = not mine
            who = "this thread is already" if mine else "another thread is"
            where = "inside a forward" if inside else "in the middle of a run"
            raise RuntimeError(f"{who} {where} of this session; {ONE_EACH}")
        self._owner = threading.get_ident()
