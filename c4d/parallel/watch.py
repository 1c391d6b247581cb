"""Which rank of a job no longer goes on, and where it was: what the error of a collective cannot tell.

Every rank says in the job's rendezvous store, once a second, that it lives, in which step it is, and whether it waits
for others. A thread of each reads that, too, for a rank that waits in a collective can look after nothing.

A command ends with the first rank that is lost (:func:`of_job`). A program of somebody else's gets an exception where
it can get one (:func:`of_request`).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch.distributed as dist

logger = logging.getLogger("c4d")

HERE = os.path.join("c4d", "parallel")
OURS = (os.path.join(HERE, "collectives.py"), os.path.join(HERE, "agree.py"))  # the second reads what was gathered
COLLECTIVES = (os.path.join("torch", "distributed"), OURS[0])
OTHERS = f"{os.sep}site-packages{os.sep}"


class LostRankError(RuntimeError):
    """Another rank failed, died, stalled or went away; the message names it and the step it was in."""


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
    """Heartbeats of ``rank``, one of ``ranks``, and an eye on the others', in a thread of its own.

    It is of the thread that makes it.

    Args:
        store: of the job; the thread has a client of its own, for one that waits in it blocks all.
        timeout: seconds that a collective may take; a rank for which others wait nearly as long is lost.
        tell: is given what happened, in words, on the rank that is to say it.
        end: what becomes of a process whose job cannot go on.
        waits: parts of the names of files; where one of them is in a call, this rank waits for others.
        met: whether all ranks begin at once, so that one that never says a word is lost.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        ranks: Sequence[int],
        timeout: float,
        tell: Callable[[str], None],
        end: Callable[[Watch], None],
        *,
        waits: Sequence[str] = (*COLLECTIVES, *OURS),
        met: bool = True,
        pace: Pace = Pace(),
    ) -> None:
        self.rank, self.ranks, self.timeout, self.pace = rank, ranks, timeout, pace
        self.group = ranks  # those that wait for each other in a collective
        self.step: Callable[[], int | None] = lambda: None  # the one that this rank is in
        self.lost: str | None = None  # which rank, in words, once that is certain
        self._store, self._tell, self._end, self._files, self._met = store, tell, end, waits, met
        # Before the collective itself gives up, which cannot tell whom it waited for.
        self._limit = max(0.9 * timeout - pace.sure - 2 * pace.beat, timeout / 3)
        self._silent = max(min(pace.silent, self._limit), 5 * pace.beat)
        self._main = threading.get_ident()
        self._heard: dict[int, tuple[str, float, dict[str, Any]]] = {}  # of each rank: what it said, and when first
        self._waits: tuple[object, float] = (None, 0.0)  # where the main thread waits, and since when
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="c4d heartbeats", daemon=True)

    def start(self) -> None:
        self._look()  # a rank that is lost at once has been heard of
        self._thread.start()

    # -- the main thread leaves

    def check(self) -> None:
        """Raises :class:`LostRankError` once it is certain that another rank is lost."""
        if self.lost is not None:
            raise LostRankError(self.lost)

    def leave(self, error: BaseException | None) -> str | None:
        """Ends the heartbeats. Returns what is to be said of another rank that is behind ``error``, in words.

        None if ``error`` is this rank's own, or if there is none; the others are told so.
        """
        if self._left.is_set():
            return None
        self._left.set()
        if self._thread.is_alive():  # what it has heard is this thread's from here on
            self._thread.join(2 * self.pace.beat)
        done = error is None or (isinstance(error, SystemExit) and not error.code)
        said = "" if done else ": ".join(filter(None, (type(error).__name__, str(error))))
        words = str(error) if isinstance(error, LostRankError) else None
        if words is None and error is not None and not done:
            words = self._behind(error, said)
        with suppress(Exception):  # the store may have ended with the job
            self._put({"left": words or said, "step": self.step(), "ends": words is not None})
            if self.rank == 0 and said:  # the store may end with this process
                self._let_read()
        return words

    def _let_read(self) -> None:
        """Gives the others time to hear why this rank leaves, until they leave, too."""
        until = time.monotonic() + 3 * self.pace.beat
        while time.monotonic() < until:
            self._listen()
            dead = {fault.rank for fault in self._dead()}
            if all("left" in beat or rank in dead for rank, (_, _, beat) in self._heard.items()):
                return
            time.sleep(self.pace.beat / 10)

    def first(self) -> bool:
        """Whether no rank has told yet what happened; the one that asks first does."""
        try:
            return bool(self._store.add("c4d told", 1) == 1)
        except Exception:  # the store is gone: better said twice than never
            return True

    def _behind(self, error: BaseException, said: str) -> str | None:
        """The fault of another rank that led to ``error``; waits for it if a collective raised that."""
        met, began = _in_collective(error), time.monotonic()
        if not met and not self._met:  # a program of somebody else's keeps its own error
            return None
        while True:
            faults = self._look()
            found = [fault for fault in faults if fault.said != said]  # else they say it themselves
            if faults or not met:
                return found[0].words if found else None
            waited = time.monotonic() - began
            if waited >= self.pace.silent or (waited >= self.pace.sure and self._all_leave()):
                return None
            if waited >= self.pace.sure and (fault := self._stalled(waited)).rank is not None:
                return fault.words
            time.sleep(self.pace.beat / 4)

    def _all_leave(self) -> bool:
        """Whether each of the others that wait for this one leaves because of an error: nobody is behind it."""
        return all(beat.get("leaves") for rank, (_, _, beat) in self._heard.items() if rank in self.group)

    @property
    def stuck(self) -> bool:
        """Whether this rank still waits for others although their time is up."""
        return self._waited()[0] >= self.timeout + self.pace.sure

    def lasts(self) -> bool:
        """A heartbeat later: False once this rank has left."""
        return not self._left.wait(self.pace.beat)

    # -- the thread

    def _run(self) -> None:
        seen: tuple[int | None, float] | None = None
        while self.lasts():
            faults = self._look()
            if not faults:
                seen = None
            elif seen is None or seen[0] != faults[0].rank:
                seen = faults[0].rank, time.monotonic()
            elif faults[0].ends or time.monotonic() - seen[1] >= self.pace.sure:
                self._finish(faults[0])
                return

    def _finish(self, fault: Fault) -> None:
        """Tells it, if nobody has, and does to this process what is to be done."""
        if self._left.is_set():  # it ends by itself
            return
        self.lost = fault.words
        if self.first():
            self._tell(fault.words)
        with suppress(Exception):
            self._put({"left": fault.words, "ends": True})
        self._end(self)

    def _look(self) -> list[Fault]:
        """Beats, and looks at the others."""
        waited, doing = self._waited()
        try:
            beat = {"machine": machine(), "process": os.getpid(), "step": self.step(), "waited": waited}
            self._put({**beat, "leaves": self._left.is_set(), "doing": doing, "time": time.time()})
            self._listen()
        except Exception as error:  # of many kinds
            gone = Fault(None, f"the job's store is gone, with its first rank or its launcher: {error}")
            return [*self._dead(), *([gone] if self._met or waited or self._left.is_set() else [])]
        return list(self._faults(waited))

    def _put(self, what: Mapping[str, Any]) -> None:
        self._store.set(f"c4d rank {self.rank}", json.dumps(what))

    def _listen(self) -> None:
        for rank in self.ranks:
            if rank == self.rank:
                continue
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
            if "left" not in beat and (beat or self._met) and silent > self._silent:
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
        for rank, beat in there.items():
            if beat.get("left") == "":
                return Fault(rank, f"rank {rank} has come to its end{_in(beat)}; others wait since {waited:.0f} s")
        there = {rank: beat for rank, beat in there.items() if "left" not in beat and not beat.get("leaves")}
        busy = {rank: beat for rank, beat in there.items() if not beat.get("waited")}
        unheard = next((rank for rank, beat in busy.items() if not beat), None)
        if unheard is not None:
            return Fault(unheard, f"rank {unheard} has never been heard of, and others wait since {waited:.0f} s")
        for rank, beat in busy.items():
            return Fault(rank, f"rank {rank} stalled{_in(beat)}, {beat.get('doing')}; others wait since {waited:.0f} s")
        there = {**there, self.rank: {"step": self.step(), "doing": self._waited()[1]}}
        each = [f"rank {rank}{_in(beat)}, {beat.get('doing')}" for rank, beat in sorted(there.items())]
        return Fault(None, f"ranks wait for each other since {waited:.0f} s: {'; '.join(each)}")

    def _waited(self) -> tuple[float, str]:
        """For how many seconds the main thread has been waiting for others, and where it is."""
        frame = sys._current_frames().get(self._main or 0)
        where = next((each for each in _outwards(frame) if OTHERS not in each.f_code.co_filename), frame)
        doing = "" if where is None else f"at {Path(where.f_code.co_filename).name}:{where.f_lineno}"
        place = None
        if frame is not None and any(_among(self._files, each.f_code.co_filename) for each in _outwards(frame)):
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


def of_job(timeout: float, tell: Callable[[str], None]) -> Watch:
    """A watch over all ranks, each of which ends once one is lost: for a process that is c4d's own."""
    store: Any = dist.distributed_c10d._get_default_store()
    return Watch(store.clone(), dist.get_rank(), range(dist.get_world_size()), timeout, tell, _at_once)


def of_request(group: Any, timeout: float) -> Watch | None:
    """A watch over the ranks of ``group`` in a process that is not c4d's; None where its job has no store to beat into.

    What it finds becomes an exception: at the next forward (:meth:`Watch.check`), or of a collective that gives up
    (:meth:`Watch.leave` says who is behind it). A process is ended if it still waits in c4d's collective when that
    should have given up, and never without a word.
    """
    try:
        whole: Any = dist.distributed_c10d._get_default_store()
        store, rank, name = whole.clone(), dist.get_rank(), group.group_name
        times = store.add(f"c4d {name} watched by {rank}", 1)  # the same on all: they enter together
    except (RuntimeError, NotImplementedError):
        return None
    own, ranks = dist.PrefixStore(f"c4d {name} {times}", store), dist.get_process_group_ranks(group)
    return Watch(own, rank, ranks, timeout, logger.error, _if_stuck, waits=OURS, met=False)


def _at_once(watch: Watch) -> None:
    """Ends this process; that of the store after the others have read that it does."""
    if watch.rank == 0:
        time.sleep(3 * watch.pace.beat)
    os._exit(1)


def _if_stuck(watch: Watch) -> None:
    """Ends this process if nothing else can: a collective that outlives its own timeout will not return."""
    while watch.lasts():
        if watch.stuck:
            logger.error("%s; this process is ended: it waits in a collective that does not give up", watch.lost)
            logging.shutdown()  # what handlers keep back would be lost
            os._exit(1)


def _in(beat: Mapping[str, Any], since: str = "") -> str:
    return "" if beat.get("step") is None else f"{since} in step {beat['step'] + 1}"


def _among(parts: Sequence[str], file: str) -> bool:
    return any(part in file for part in parts)


def _in_collective(error: BaseException) -> bool:
    """Whether a collective raised it that was under way: a mistake in its arguments is another kind of error."""
    return isinstance(error, RuntimeError) and any(
        _among(COLLECTIVES, each.filename) for each in traceback.extract_tb(error.__traceback__)
    )


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
