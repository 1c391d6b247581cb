"""SIGINT and SIGTERM as exceptions: cleanup runs, and a signal that library code swallows is raised again.

And other ranks that can no longer go on, in place of what this one met because of them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from c4d.parallel.watch import LostRankError, Watch


class Terminated(BaseException):
    """SIGTERM, which schedulers send before they kill."""


class Stops:
    """What was asked to stop this process, if anything was."""

    asked: type[BaseException] | None = None
    watch: Watch | None = None  # over the other ranks of the job

    def __init__(self, tell: Callable[[str], None] = lambda words: None) -> None:
        self.tell = tell  # says, in words, which other rank cannot go on

    def check(self) -> None:
        """Raises it once more if it was caught by somebody else: imports of other packages swallow what they meet."""
        if self.asked is not None:
            raise self.asked

    def leave(self, error: BaseException | None = None) -> None:
        """Tells the other ranks how this one ended. Raises :class:`LostRankError` in place of an ``error`` that one of
        them is behind, or SystemExit if that has been told; this rank's own gets a note of the step."""
        lost = None if self.watch is None else self.watch.leave(error)
        told = error is not None and self.watch is not None and not self.watch.first()
        if lost is not None:
            raise (SystemExit(1) if told else LostRankError(lost)) from error
        if error is not None and self.watch is not None and (step := self.watch.step()) is not None:
            notes = [*getattr(error, "__notes__", ()), f"in step {step + 1}"]
            error.__notes__ = notes  # type: ignore[attr-defined]  # Python 3.10 has no add_note


@contextmanager
def stoppable(tell: Callable[[str], None] = lambda words: None) -> Iterator[Stops]:
    """Inside the block SIGINT raises KeyboardInterrupt and SIGTERM :class:`Terminated`; an exception that one of them
    was turned into becomes it again."""
    stops = Stops(tell)
    if threading.current_thread() is not threading.main_thread():
        yield stops  # Python handles signals in the main thread alone
        return

    def stop(number: int, _: object) -> None:
        stops.asked = KeyboardInterrupt if number == signal.SIGINT else Terminated
        raise stops.asked

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stops
        stops.check()
        stops.leave()
    except BaseException as error:
        asked = stops.asked() if stops.asked is not None and isinstance(error, Exception) else None
        stops.leave(asked or error)
        if asked is not None:
            raise asked from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
