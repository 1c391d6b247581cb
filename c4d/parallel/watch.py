"""Which rank of a job no longer goes on, and where it was: what the error of a collective cannot tell.

Every rank says in the job's rendezvous store, once a second, that it lives, in which step it is, and whether it waits
for others. A thread of each reads that, too, for a rank that waits in a collective can look after nothing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch.distributed as dist

WAITS = (os.path.join("torch", "distributed"), os.path.join("c4d", "parallel", "collectives.py"))
OTHERS = f"{os.sep}site-packages{os.sep}"


class LostRankError(RuntimeError):
    """Another rank of the job failed, died or stalled; the message names it and the step it was in."""


class Fault(NamedTuple):
    """``rank`` cannot go on (None: nobody knows which), in words, and what it said itself, if anything.

    ``ends``: because of another one, which it has told.
    """

    rank: int | None
    words: str
    said: str = ""
    ends: bool = False


@dataclass(frozen=True)
class Pace:
    """Seconds: between heartbeats; until a fault that lasts ends a process; until a rank that is silent is lost."""

    beat: float = 1.0
    sure: float = 3.0
    silent: float = 60.0


class Watch:
    """Heartbeats of ``rank`` among ``world``, and an eye on the others', in a thread of its own.

    Args:
        store: of the job; the thread has a client of its own, for one that waits in it blocks all.
        timeout: seconds that a collective may take; a rank for which others wait nearly as long is lost.
        tell: is given what happened, in words, on the rank that is to say it.
        end: ends this process at once.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world: int,
        timeout: float,
        tell: Callable[[str], None],
        end: Callable[[], None],
        pace: Pace = Pace(),
    ) -> None:
        self.rank, self.world, self.pace = rank, world, pace
        self.group = range(world)  # the ranks that wait for each other in a collective
        self.step: Callable[[], int | None] = lambda: None  # the one that this rank is in
        self._store, self._tell, self._end = store, tell, end
        # Before the collective itself gives up, which cannot tell whom it waited for.
        self._limit = max(0.9 * timeout - pace.sure - 2 * pace.beat, timeout / 3)
        self._main, self._started = threading.main_thread().ident, time.monotonic()
        self._heard: dict[int, tuple[str, float, dict[str, Any]]] = {}  # of each rank: what it said, and when first
        self._waits: tuple[object, float] = (None, 0.0)  # where the main thread waits, and since when
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="c4d heartbeats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # -- the main thread leaves

    def leave(self, error: BaseException | None) -> str | None:
        """Ends the heartbeats. Returns what is to be said of another rank that is behind ``error``; "" if it has been
        said. None if ``error`` is this rank's own, or if there is none; the others are told so.
        """
        self._left.set()
        if self._thread.is_alive():  # what it has heard is this thread's from here on
            self._thread.join(2 * self.pace.beat)
        said = "" if error is None else ": ".join(filter(None, (type(error).__name__, str(error))))
        fault = None if error is None else self._behind(error, said)
        if fault is not None:
            return fault.words if self._first() else ""
        with suppress(Exception):  # the store may have ended with the job
            self._put({"left": said, "step": self.step()})
            if error is not None:
                self._first()
        return None

    def _behind(self, error: BaseException, said: str) -> Fault | None:
        """The fault of another rank that led to ``error``; waits for it if a collective raised that."""
        met, began = _in_collective(error), time.monotonic()
        while True:
            faults = self._look()
            found = [fault for fault in faults if fault.said != said]  # else they say it themselves
            if faults or not met:
                return found[0] if found else None
            waited = time.monotonic() - began
            if waited >= self.pace.silent:
                return None
            if waited >= self.pace.sure and (fault := self._stalled(waited)).rank is not None:
                return fault
            time.sleep(self.pace.beat / 4)

    def _first(self) -> bool:
        """Whether no rank has told yet what happened."""
        try:
            return bool(self._store.add("c4d told", 1) == 1)
        except Exception:  # the store is gone: better said twice than never
            return True

    # -- the thread

    def _run(self) -> None:
        seen: tuple[int | None, float] | None = None
        while not self._left.wait(self.pace.beat):
            faults = self._look()
            if not faults:
                seen = None
            elif seen is None or seen[0] != faults[0].rank:
                seen = faults[0].rank, time.monotonic()
            elif faults[0].ends or time.monotonic() - seen[1] >= self.pace.sure:
                self._finish(faults[0])
                return

    def _finish(self, fault: Fault) -> None:
        """Tells it, if nobody has, and ends this process; that of the store after the others have read that it does."""
        if self._left.is_set():  # it ends by itself
            return
        if self._first():
            self._tell(fault.words)
        with suppress(Exception):
            self._put({"left": fault.words, "ends": True})
        if self.rank == 0 and fault.rank is not None:
            time.sleep(3 * self.pace.beat)
        self._end()

    def _look(self) -> list[Fault]:
        """Beats, and looks at the others."""
        waited, doing = self._waited()
        try:
            beat = {"machine": machine(), "process": os.getpid(), "step": self.step(), "waited": waited}
            self._put({**beat, "leaves": self._left.is_set(), "doing": doing, "time": time.time()})
            self._listen()
        except Exception as error:  # of many kinds
            gone = Fault(None, f"the job's store is gone, with its first rank or its launcher: {error}")
            return [*self._dead(), gone]
        return list(self._faults(waited))

    def _put(self, what: Mapping[str, Any]) -> None:
        self._store.set(f"c4d rank {self.rank}", json.dumps(what))

    def _listen(self) -> None:
        others = [rank for rank in range(self.world) if rank != self.rank]
        for rank in others:
            key = f"c4d rank {rank}"
            said = self._store.get(key).decode() if self._store.check([key]) else ""
            if rank not in self._heard or self._heard[rank][0] != said:
                self._heard[rank] = said, time.monotonic(), json.loads(said or "{}")

    def _faults(self, waited: float) -> Iterator[Fault]:
        yield from self._dead()
        for rank, (_, _, beat) in self._heard.items():
            if beat.get("left"):
                words = beat["left"] if beat.get("ends") else f"rank {rank} failed{_in(beat)}: {beat['left']}"
                yield Fault(rank, words, beat["left"], bool(beat.get("ends")))
        for rank, (_, since, beat) in self._heard.items():
            silent = time.monotonic() - since
            if "left" not in beat and silent > min(self.pace.silent, self._limit):
                last = f"not been heard of for {silent:.0f} s" if beat else "never been heard of"
                yield Fault(rank, f"rank {rank} has {last}{_in(beat, ', last')}")
        if waited > self._limit:
            yield self._stalled(waited)

    def _dead(self) -> Iterator[Fault]:
        """Of this machine, without a word. Ranks of one request are in the same step: this one knows it better."""
        for rank, (_, _, beat) in self._heard.items():
            if beat.get("machine") == machine() and not lives(beat["process"]):
                yield Fault(rank, f"rank {rank} died{_in({'step': self.step()} if rank in self.group else beat)}")

    def _stalled(self, waited: float) -> Fault:
        there = {rank: self._heard[rank][2] for rank in self.group if rank in self._heard}
        there = {rank: beat for rank, beat in there.items() if "left" not in beat and not beat.get("leaves")}
        busy = {rank: beat for rank, beat in there.items() if not beat.get("waited")}
        unheard = next((rank for rank, beat in busy.items() if not beat), None)
        if unheard is not None:
            return Fault(unheard, f"rank {unheard} has never been heard of, and others wait since {waited:.0f} s")
        for rank, beat in busy.items():
            return Fault(rank, f"rank {rank} stalled{_in(beat)}, {beat.get('doing')}; others wait since {waited:.0f} s")
        each = [f"rank {rank}{_in(beat)}, {beat.get('doing')}" for rank, beat in there.items()]
        return Fault(None, f"ranks wait for each other since {waited:.0f} s: {'; '.join(each)}")

    def _waited(self) -> tuple[float, str]:
        """For how many seconds the main thread has been waiting for others, and where it is."""
        frame = sys._current_frames().get(self._main or 0)
        where = next((each for each in _outwards(frame) if OTHERS not in each.f_code.co_filename), frame)
        doing = "" if where is None else f"at {Path(where.f_code.co_filename).name}:{where.f_lineno}"
        place = None
        if frame is not None and any(_waits(each.f_code.co_filename) for each in _outwards(frame)):
            place = id(frame), frame.f_lasti, self.step()
        now = time.monotonic()
        if place is None or place != self._waits[0]:
            self._waits = place, now
        return (0.0 if place is None else max(now - self._waits[1], 1e-3)), doing


def lives(process: int) -> bool:
    """Whether a process of this machine runs; one that only waits to be counted by its parent does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or there is no /proc
        return True


def machine() -> str:
    """Where process numbers are of the same processes."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def of_job(timeout: float, tell: Callable[[str], None], end: Callable[[], None]) -> Watch:
    """A watch over the ranks of torch.distributed's default group."""
    store: Any = dist.distributed_c10d._get_default_store()
    return Watch(store.clone(), dist.get_rank(), dist.get_world_size(), timeout, tell, end)


def _in(beat: Mapping[str, Any], since: str = "") -> str:
    return "" if beat.get("step") is None else f"{since} in step {beat['step'] + 1}"


def _waits(file: str) -> bool:
    return any(part in file for part in WAITS)


def _in_collective(error: BaseException) -> bool:
    return isinstance(error, Exception) and any(
        _waits(each.filename) for each in traceback.extract_tb(error.__traceback__)
    )


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
