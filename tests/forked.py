"""Ranks that are forks of one process, which has imported everything: that takes longer than most tests."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

LIMIT = timedelta(seconds=60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def ranks(world: int, program: Callable[[int, int], object]) -> int:
    """Runs ``program(world, rank)`` on so many over gloo; the first that fails ends the others. 1 if any did.

    No thread may live in this process.
    """
    there = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    children = set()
    for rank in range(world):
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.environ.update({**there, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)})
                dist.init_process_group("gloo", timeout=LIMIT)
                program(world, rank)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.add(child)
    failed = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        if status and not failed:
            failed = 1
            for other in children:
                os.kill(other, signal.SIGTERM)
    return failed
