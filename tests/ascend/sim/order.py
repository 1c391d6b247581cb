"""Whether what is read was certainly written, on a device where every piece of work is done at once.

Streams, events and the host carry vector clocks (cann.c). Here stands who touched a storage last; touching it from a
stream, or from the host, that has not waited for that is what a real device would get wrong only sometimes.
"""

from __future__ import annotations

import ctypes

from torch import Tensor

LIBRARY = ctypes.CDLL("libascendcl.so")
LIBRARY.sim_launch.restype = LIBRARY.sim_knows.restype = ctypes.c_uint64
LIBRARY.sim_launch.argtypes = LIBRARY.sim_id.argtypes = [ctypes.c_void_p]
LIBRARY.sim_knows.argtypes = [ctypes.c_void_p, ctypes.c_int]
LIBRARY.sim_take_trace.restype = ctypes.c_char_p
HOST = None


class OutOfOrder(AssertionError):
    """Memory was touched by work that does not wait for the work that touched it before."""


class Touch(ctypes.Structure):
    _fields_ = (
        ("stream", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        ("writes", ctypes.c_int64),
        ("tick", ctypes.c_uint64),
    )


def taken_touches() -> list[Touch]:
    """What collectives read and wrote since the last call, and on which stream."""
    into = (Touch * 1024)()
    return list(into[: LIBRARY.sim_take_touches(into)])


TRACE: list[str] = []


def launched() -> list[str]:
    """The kernels launched since ``taken_trace``, by their names in CANN."""
    TRACE.extend(LIBRARY.sim_take_trace().decode().split())
    return TRACE


def taken_trace() -> list[str]:
    taken = list(launched())
    TRACE.clear()
    return taken


class Order:
    """``written`` and ``read``: storage -> {stream: its clock then}; parts of a storage are not told apart."""

    def __init__(self) -> None:
        self.written: dict[int, dict[int, int]] = {}
        self.read: dict[int, dict[int, int]] = {}

    def touch(
        self, stream: int | None, reads: list[Tensor], writes: list[Tensor], what: str, tick: int | None = None
    ) -> None:
        """One piece of work of ``stream`` (``HOST``: of the host); ``tick`` if it has been launched already."""
        me = LIBRARY.sim_id(stream)
        tick = tick or LIBRARY.sim_launch(stream)
        for x in reads:
            self._waits_for(stream, x, self.written, "reads", "was written", what)
            if at := address(x):
                self.read.setdefault(at, {})[me] = tick
        for x in writes:
            self._waits_for(stream, x, self.written, "writes", "was written", what)
            self._waits_for(stream, x, self.read, "writes", "was read", what)
            if at := address(x):
                self.written[at] = {me: tick}
                self.read.pop(at, None)

    def _waits_for(self, stream, x: Tensor, before: dict[int, dict[int, int]], does: str, done: str, what: str) -> None:
        for other, tick in before.get(address(x), {}).items():
            if LIBRARY.sim_knows(stream, other) < tick:
                who = f"stream {LIBRARY.sim_id(stream)}" if stream else "the host"
                raise OutOfOrder(
                    f"{what} of {who} {does} {list(x.shape)}, which {done} by stream {other}, without waiting for that"
                )

    def knows(self, x: Tensor) -> bool:
        return address(x) in self.written or address(x) in self.read


def address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
