"""Starts the cases on several ranks: one torchrun for all of them, and nothing outlives its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 240  # seconds, many times what it takes: a launch that hangs is ended, and says where it hung


def launch(world: int, *names: str) -> dict[str, list[str | None]]:
    """Case -> what went wrong in it on each rank; all cases unless some are named."""
    with tempfile.TemporaryDirectory(prefix="c4d-ranks-") as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"),
            *("-m", "tests.parallel.matrix", folder, *names),
        ]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "C4D_RANKS_LIMIT": str(LIMIT)}
        job = subprocess.Popen(
            command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            said, _ = job.communicate(timeout=LIMIT + 30)  # the ranks end themselves at LIMIT
        except subprocess.TimeoutExpired:
            job.terminate()  # torchrun then ends its ranks, which are in sessions of their own
            said, _ = job.communicate()
        lost = f"this rank did not get to it; the launch ended with {job.returncode} and said:\n{said[-6000:]}"
        found: dict[str, list[str | None]] = {}
        for rank in range(world):
            path = Path(folder) / f"{rank}.jsonl"
            for line in path.read_text().splitlines() if path.exists() else ():
                case = json.loads(line)
                found.setdefault(case["case"], [lost] * world)[rank] = case["error"]
        return found or {"": [lost] * world}
