"""A worker: a process with a pipeline of its own, which makes one job after the other."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from tqdm import tqdm

from c4d.pipelines import GenerationError, InputError, OutputError, Request, Step

INPUT, ERROR = "invalid_request", "error"
CLEAR: dict[type[Exception], str] = {  # after which a worker can go on, and what each is called
    InputError: INPUT,
    GenerationError: "generation_failed",
    OutputError: "unwritten",
    torch.OutOfMemoryError: "out_of_memory",
}


class Make(Protocol):
    """Fills a folder with what a request asks for, and names its files. ``stepped`` is called after each step; what it
    raises has to leave nothing behind."""

    def __call__(
        self, folder: Path, request: Request, quality: str | None, stepped: Callable[[Step], None]
    ) -> list[str]: ...


Start = Callable[[int], Make]  # loads a pipeline on the device of that index, in the process of a worker; is pickled


class Task(NamedTuple):
    """What a worker is to make; ``number`` tells it from those before."""

    number: int
    folder: Path
    request: Request
    quality: str | None


class Cancel(NamedTuple):
    number: int


class Ready(NamedTuple):
    """The pipeline is there, or a task is over and its memory free."""


class Made(NamedTuple):
    files: list[str]


class Failed(NamedTuple):
    """``fatal``: the process ends, for nobody knows what the error has left."""

    reason: str
    code: str
    fatal: bool


class Lost(NamedTuple):
    """What the server hears of a process that is gone: how it ended, in words."""

    how: str


class CancelledError(Exception):
    """Ends a generation between two steps."""


def work(pipe: Connection, start: Start, device: int) -> None:
    """The worker's whole life; it ends when nobody is at the other end."""
    try:
        try:
            make = start(device)
        except Exception as error:
            pipe.send(_failed(error, fatal=True))
            return
        pipe.send(Ready())
        while True:
            task = pipe.recv()
            if isinstance(task, Cancel):  # of one that was over when it came
                continue
            result = _made(pipe, make, task)
            pipe.send(result)
            if isinstance(result, Failed) and result.fatal:
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def process(pipe: Connection, start: Start, device: int) -> None:
    """:func:`work` in a process of its own."""
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore of the system, which a process that is killed leaves
    work(pipe, start, device)


def _made(pipe: Connection, make: Make, task: Task) -> Made | Failed | Cancel:
    def stepped(step: Step) -> None:
        pipe.send(step)
        while pipe.poll():
            if pipe.recv() == Cancel(task.number):
                raise CancelledError

    found: Made | Failed | Cancel
    try:
        return Made(make(task.folder, task.request, task.quality, stepped))
    except CancelledError:
        found = Cancel(task.number)
    except tuple(CLEAR) as error:
        found = _failed(error, fatal=False)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        found = _failed(error, fatal=True)
    gc.collect()  # what frames of the generation held in a circle
    return found


def _failed(error: Exception, fatal: bool) -> Failed:
    text, code = " ".join(str(error).split()), next((CLEAR[kind] for kind in CLEAR if isinstance(error, kind)), None)
    return Failed(text, code, fatal) if code else Failed(f"{type(error).__name__}: {text}", ERROR, fatal)


class Worker:
    """The other end, in the server: starts the process, and starts it again. Its calls may wait: not for the event
    loop, but for :meth:`send` and :meth:`kill`."""

    def __init__(self, start: Start, device: int) -> None:
        self._start, self.device, self.ready = start, device, False
        self._process: Any = None
        self._pipe: Connection | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def load(self) -> str | None:
        """Starts the process and waits until it has loaded; returns why it cannot, if it cannot."""
        self.stop()
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = self._started(theirs)
        said = self.receive(None)
        self.ready = isinstance(said, Ready)
        if isinstance(said, Failed):
            return said.reason
        return None if self.ready else f"its process ended while it loaded ({said.how})"

    def _started(self, pipe: Connection) -> Any:
        context = multiprocessing.get_context("spawn")
        started = context.Process(target=process, args=(pipe, self._start, self.device), daemon=True)
        resource_tracker.ensure_running()  # if the process started it, it would let SIGINT through again
        # A terminal's Ctrl-C is meant for the server, which says what is to end; the process never hears it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            started.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        pipe.close()  # else nobody would hear that the process is gone
        return started

    def send(self, what: Task | Cancel) -> bool:
        """Whether there is a process to hear it."""
        try:
            assert self._pipe is not None
            self._pipe.send(what)
        except OSError:
            return False
        return True

    def receive(self, patience: float | None) -> Any:
        """The next message; :class:`Lost` from a process that is gone, or is silent for ``patience`` seconds, which
        ends it."""
        assert self._pipe is not None
        try:
            if self._pipe.poll(patience):
                return self._pipe.recv()
        except (EOFError, OSError):
            return self.lost()
        self.kill()
        return Lost(f"it was silent for {patience:g} s")

    def lost(self) -> Lost:
        """How the process ended, for which it waits a little."""
        self._process.join(5)
        code = self._process.exitcode
        return Lost(signal.strsignal(-code) or f"signal {-code}" if code and code < 0 else f"exit status {code}")

    def kill(self) -> None:
        self.ready = False
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self.kill()
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None:
            process.join()
            process.close()
        if pipe is not None:
            pipe.close()
