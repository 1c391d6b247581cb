"""The processes of a job: who this one is, and how they talk."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from c4d.backends import Backend
from c4d.parallel.agree import ADVICE, DisagreementError

T = TypeVar("T")
R = TypeVar("R")


class NoLauncherError(RuntimeError):
    """Several ranks were asked for, but RANK and WORLD_SIZE are unset: torchrun sets them."""


class Job(NamedTuple):
    """``rank`` of ``world`` processes, ``node`` of them on this machine."""

    rank: int = 0
    world: int = 1
    node: int = 1

    def first(self, act: Callable[[], T]) -> T:
        """What ``act()`` gives, or raises, on rank 0; every rank gets or raises it."""
        if self.world == 1:
            return act()
        said: list[Any] = list(attempt(act)) if self.rank == 0 else [None, None]
        dist.broadcast_object_list(said, 0)
        given, raised = said
        if raised is not None:
            raise raised
        return given

    def all(self, act: Callable[[], T]) -> T:
        """What ``act()`` gives on this rank; if it raises on any, every rank raises what the first of them did.

        What it gives has to be the same on all of them.
        """
        if self.world == 1:
            return act()
        mine, mistake = attempt(act)
        said: list[Any] = [None] * self.world
        dist.all_gather_object(said, (None if mine is None else repr(mine), mistake))
        for rank, (_, raised) in enumerate(said):
            if raised is not None:
                raise raised if rank == 0 else of_rank(rank, raised)
        for rank, (given, _) in enumerate(said):
            if given != said[0][0]:
                raise DisagreementError(f"ranks 0 and {rank} of this job were given different options: {ADVICE}")
        return mine

    def led(self, act: Callable[..., T], lead: Callable[[Callable[..., T]], R]) -> R | None:
        """What ``lead(together)`` gives on rank 0, where ``together(*what)`` is ``act(*what)`` on every rank at once.

        None on the others: they do what they are told, until the first one has ended. What ``lead`` raises between two
        acts, every rank raises. What ``act`` raises ends a rank within an act; the others get an error there, when its
        connections close or after the job's timeout.
        """
        if self.world == 1:
            return lead(act)

        def say(what: tuple[Any, ...] | None = None) -> tuple[Any, ...] | None:
            """What the first rank says, on all of them."""
            return self.first(lambda: what)

        if self.rank > 0:
            while (what := say()) is not None:
                act(*what)
            return None
        acting = False

        def together(*what: Any) -> T:
            nonlocal acting
            say(what)
            acting = True
            found = act(*what)
            acting = False
            return found

        try:
            found = lead(together)
        except Exception as error:
            if not acting:
                self.first(partial(fail, error))
            raise
        say()
        return found

    def meet(self) -> None:
        """Waits for all ranks, however long they take: they may be whole generations apart."""
        if self.world == 1:
            return
        store = dist.distributed_c10d._get_default_store()
        store.set(f"c4d done {self.rank}", "")
        store.wait([f"c4d done {rank}" for rank in range(self.world)], timedelta(days=30))

    def end(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def fail(error: Exception) -> None:
    raise error


def attempt(act: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What ``act()`` gives and None, or None and what it raises, :func:`portable`."""
    try:
        return act(), None
    except Exception as error:
        return None, portable(error)


def portable(error: Exception) -> Exception:
    """``error`` if it can be sent to another process, else one that says what it was."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def of_rank(rank: int, error: Exception) -> Exception:
    try:
        return type(error)(f"on rank {rank}: {error}")
    except TypeError:  # one that is not made of a message
        return error


def start(backend: Backend, timeout: float) -> Job:
    """Joins the job that torchrun started, on a device of its own; as it is, if the process has joined one already.

    Raises :class:`NoLauncherError` in a process that no launcher started.
    """
    if not dist.is_initialized():
        if missing := [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]:
            raise NoLauncherError(
                f"several ranks need a launcher, these variables are not set: {', '.join(missing)}; start the program "
                "with torchrun --nproc-per-node=N"
            )
        if backend.device_type != "cpu":
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend.collectives, timeout=timedelta(seconds=timeout))
    world = dist.get_world_size()
    return Job(dist.get_rank(), world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
