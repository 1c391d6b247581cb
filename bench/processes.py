"""Commands in processes of their own, which end in time with all that they started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress

import psutil

from bench.stamp import ROOT


def run(command: Sequence[object], limit: float, **settings: str) -> tuple[int | str, list[str]]:
    """Runs Python with these arguments in the checkout: exit status, or what ended it, and the lines that it said.

    After ``limit`` seconds it is killed with its descendants; ranks are in sessions of their own, so by their parents.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as said:  # read also if the time is up
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env={**os.environ, **settings}, stdout=said,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        how: int | str
        try:
            how = process.wait(limit)
        except subprocess.TimeoutExpired:
            how = f"its time being up ({limit:g} s)"
        finally:  # an interrupt, too
            kill(process.pid)
            process.wait()
        said.seek(0)
        return how, [line for line in said.read().splitlines() if line.strip()] or ["nothing said"]


def torchrun(ranks: int) -> list[str]:
    """What stands before ``-m MODULE`` and its arguments in a command that runs it on so many ranks of this machine."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]


def kill(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
