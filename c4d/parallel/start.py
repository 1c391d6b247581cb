"""The processes of a job: who this one is, and how they talk."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from c4d.backends import Backend

T = TypeVar("T")


class NoLauncher(RuntimeError):
    """Several ranks were asked for in a process that nobody told which one it is."""


class Job(NamedTuple):
    """``rank`` of ``world`` processes, ``node`` of them on this machine."""

    rank: int = 0
    world: int = 1
    node: int = 1

    def first(self, act: Callable[[], T]) -> T:
        """What ``act()`` gives, or raises, on rank 0; every rank gets or raises it."""
        if self.world == 1:
            return act()
        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                said[0] = act()
            except Exception as error:
                said[1] = error
        dist.broadcast_object_list(said, 0)
        if said[1] is not None:
            raise said[1]
        return said[0]

    def end(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def start(backend: Backend, timeout: float) -> Job:
    """Joins the job that torchrun started, on a device of its own; as it is, if the process has joined one already.

    Raises :class:`NoLauncher` in a process that no launcher started.
    """
    if not dist.is_initialized():
        if missing := [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]:
            raise NoLauncher(
                f"several ranks need a launcher, and {', '.join(missing)} is not set: start the program with "
                "torchrun --nproc-per-node=N"
            )
        if backend.device_type != "cpu":
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend.collectives, timeout=timedelta(seconds=timeout))
    world = dist.get_world_size()
    return Job(dist.get_rank(), world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
