"""SIGINT and SIGTERM as exceptions: cleanup runs, and a signal that library code swallows is raised again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM, which schedulers send before they kill."""


class Stops:
    """What was asked to stop this process, if anything was."""

    asked: type[BaseException] | None = None

    def check(self) -> None:
        """Raises it once more if it was caught by somebody else: imports of other packages swallow what they meet."""
        if self.asked is not None:
            raise self.asked


@contextmanager
def stoppable() -> Iterator[Stops]:
    """Inside the block SIGINT raises KeyboardInterrupt and SIGTERM :class:`Terminated`; an exception that one of them
    was turned into becomes it again."""
    stops = Stops()
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
    except Exception as error:
        if stops.asked is not None:
            raise stops.asked from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
