"""Starts the cases on several ranks: one process that forks them, and nothing outlives its time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.processes import run

LIMIT = 240  # seconds, many times what it takes: a launch that hangs is ended, and says where it hung


def launch(*launches: tuple[int, Sequence[str]]) -> list[dict[str, list[str | None]]]:
    """Of each pair of a world size and names of cases, one after the other: case -> what went wrong on each rank."""
    with tempfile.TemporaryDirectory(prefix="c4d-ranks-") as folder:
        words = [word for world, names in launches for word in ("+", world, *names)][1:]
        settings = {"OMP_NUM_THREADS": "1", "C4D_RANKS_LIMIT": str(LIMIT)}
        limit = LIMIT * len(launches) + 30  # the ranks end themselves at LIMIT
        how, lines = run(["-m", "tests.parallel.matrix", folder, *words], limit, **settings)
        said = "\n".join(lines)[-6000:]
        lost = f"this rank did not get to it; the launch ended with {how} and said:\n{said}"
        return [_read(Path(folder) / str(number), world, lost) for number, (world, _) in enumerate(launches)]


def _read(folder: Path, world: int, lost: str) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for rank in range(world):
        path = folder / f"{rank}.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            case = json.loads(line)
            found.setdefault(case["case"], [lost] * world)[rank] = case["error"]
    return found or {"": [lost] * world}
