"""Ranks on one machine, a process and a device each, over torch_npu's own ProcessGroupHCCL."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import timedelta

import torch

LIMIT = 90  # seconds


def run(work, ranks: int = 2, *args) -> None:
    """``work(rank, *args)``, a module's function, on every rank within a simulation; an error of one is raised here."""
    with tempfile.TemporaryDirectory(prefix="c4d-", dir="/dev/shm") as folder:  # what killed ranks leave goes with it
        os.environ["C4D_SIM_FOLDER"], path = folder, os.path.join(folder, "store")
        context = torch.multiprocessing.spawn(start, (work, ranks, path, args), nprocs=ranks, join=False)
        end = time.monotonic() + LIMIT
        while not context.join(timeout=max(0.1, end - time.monotonic())):
            if time.monotonic() >= end:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"the ranks did not end within {LIMIT} s")


def start(rank: int, work, ranks: int, path: str, args) -> None:
    import torch_npu  # noqa: F401 - makes the device known

    from tests.ascend.sim.device import Simulation

    torch.set_num_threads(1)
    torch.npu.set_device(rank)
    store = torch.distributed.FileStore(path, ranks)
    torch.distributed.init_process_group(
        "hccl", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    with Simulation() as simulation, torch.no_grad():
        work(rank, *args)
        assert not simulation.unfit, simulation.unfit
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()
