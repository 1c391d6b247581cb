"""Every case on several ranks: ``python -m tests.parallel.matrix FOLDER 4 [CASE...]``, or FOLDER 2 CASE... + 4 CASE...

The ranks are forks of this process (one program under torchrun itself: tests/cli/test_ranks.py). Each writes a line a
case to a folder in FOLDER, 0 for the first world. Ranks meet between cases at the store, which survives what breaks a
group.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import diffusers
import torch
import torch.distributed as dist

from c4d.models import SPECS
from tests.forked import ranks
from tests.parallel import (
    agreement,
    calibration,
    decisions,
    divided,
    examples,
    families,
    forwards,
    generations,
    guidance,
    leaving,
    methods,
    neighbours,
    planned,
    programs,
    rollouts,
    tiles,
    traffic,
)
from tests.parallel.job import CPU, Case

PARTS = (
    forwards,
    examples,
    families,
    generations,
    guidance,
    decisions,
    agreement,
    traffic,
    planned,
    methods,
    neighbours,
    calibration,
    rollouts,
    leaving,
    tiles,
    divided,
    programs,
)


FAILED = "a case failed"


def cases(world: int) -> dict[str, Case]:
    return {name: case for part in PARTS for name, case in part.cases(world).items()}


def fails() -> None:
    assert dist.get_rank() != 1, "on purpose"


def ends() -> None:
    if dist.get_rank() == 1:
        os._exit(3)


LAUNCHER = {"launcher: a rank fails": fails, "launcher: a rank ends": ends, "launcher: and then": fails}  # if named


def run(folder: str, names: tuple[str, ...], world: int, rank: int) -> None:
    faulthandler.dump_traceback_later(float(os.environ.get("C4D_RANKS_LIMIT", "600")), exit=True)
    store = dist.distributed_c10d._get_default_store()
    found = cases(world)
    if names:
        found = {name: case for name, case in {**found, **LAUNCHER}.items() if name in names}
    with (Path(folder) / f"{rank}.jsonl").open("w") as lines:
        for name, case in found.items():
            if meet(f"before {name}", world):
                CPU.forget()
            start, error = time.perf_counter(), None
            try:
                case()
            except Exception:
                error = traceback.format_exc()
                store.set(FAILED, "")
            seconds = round(time.perf_counter() - start, 2)
            print(json.dumps({"case": name, "seconds": seconds, "error": error}), file=lines, flush=True)
    meet("the end", world)
    dist.destroy_process_group()


def meet(place: str, world: int) -> bool:
    """Waits until all ranks are at ``place``: one that failed may be far ahead of those that wait for it. True if any
    has failed since they met before."""
    store = dist.distributed_c10d._get_default_store()
    if store.add(place, 1) == world:
        store.set(f"{place}, all", "failed" if store.check([FAILED]) else "fine")
        store.delete_key(FAILED)
    store.wait([f"{place}, all"], timedelta(seconds=120))
    return store.get(f"{place}, all") == b"failed"


def main(folder: str, *words: str) -> int:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in (*SPECS, "WanPipeline"):  # imported when asked for: here, not in each rank
        getattr(diffusers, name)
    failed = 0
    for number, (world, *names) in enumerate(launches(words)):
        place = Path(folder) / str(number)
        place.mkdir()
        failed |= ranks(int(world), functools.partial(run, str(place), tuple(names)))
    return failed


def launches(words: Sequence[str]) -> list[list[str]]:
    """The words between those that are a plus."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "+":
            found.append([])
        else:
            found[-1].append(word)
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
