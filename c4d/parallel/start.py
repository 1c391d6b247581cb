"""The processes of a job: who this one is, and how they talk."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from c4d.backends import Backend


class Job(NamedTuple):
    """``rank`` of ``world`` processes, ``node`` of them on this machine."""

    rank: int
    world: int
    node: int


def start(backend: Backend, timeout: float) -> Job:
    """Joins the job that torchrun started, on a device of its own; as it is, if the process has joined one already.

    Raises RuntimeError in a process that no launcher started.
    """
    if not dist.is_initialized():
        if missing := [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]:
            raise RuntimeError(
                f"several ranks need a launcher, and {', '.join(missing)} is not set: start the program with "
                "torchrun --nproc-per-node=N"
            )
        if backend.device_type != "cpu":
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend.collectives, timeout=timedelta(seconds=timeout))
    world = dist.get_world_size()
    return Job(dist.get_rank(), world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
