"""Starts the cases on several ranks: one process that forks them, and nothing outlives its time."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bench.processes import run

LIMIT = 240  # seconds, many times what it takes: a launch that hangs is ended, and says where it hung


def launch(world: int, *names: str) -> dict[str, list[str | None]]:
    """Case -> what went wrong in it on each rank; all cases unless some are named, exactly."""
    with tempfile.TemporaryDirectory(prefix="c4d-ranks-") as folder:
        command = ["-m", "tests.parallel.matrix", folder, world, *names]
        settings = {"OMP_NUM_THREADS": "1", "C4D_RANKS_LIMIT": str(LIMIT)}
        how, lines = run(command, LIMIT + 30, **settings)  # the ranks end themselves at LIMIT
        said = "\n".join(lines)[-6000:]
        lost = f"this rank did not get to it; the launch ended with {how} and said:\n{said}"
        found: dict[str, list[str | None]] = {}
        for rank in range(world):
            path = Path(folder) / f"{rank}.jsonl"
            for line in path.read_text().splitlines() if path.exists() else ():
                case = json.loads(line)
                found.setdefault(case["case"], [lost] * world)[rank] = case["error"]
        return found or {"": [lost] * world}
