"""Part "cards": what sequence parallelism stands on, by 2 and 8 ranks with a device each.

Collectives, cache decisions that agree, Ulysses and Ring attention, and the time of their exchanges at the models'
sizes. Whole generations on several ranks are in the part "generate".
"""

from __future__ import annotations

import json
import shutil
from functools import partial

import torch

from bench import processes
from bench.accelerator.machine import Machine
from bench.accelerator.rank import CHECKS, LIMIT, TIMES
from bench.accelerator.records import Absent, Case, Record

RANKS = (2, 8)
LONGER = 60.0  # seconds that torchrun has beyond its ranks


def cases(machine: Machine) -> list[Case]:
    """Each topic in processes of its own, so that what fails takes nothing else with it; in a rehearsal in one."""
    topics = [*CHECKS, TIMES]
    together = [topics] if machine.rehearsal else [[topic] for topic in topics]
    return [
        Case(f"{' and '.join(own)}, {ranks} ranks", 60, partial(measure, machine, own, ranks))
        for ranks in RANKS
        for own in together
    ]


def measure(machine: Machine, topics: list[str], ranks: int, worker: str = "bench.accelerator.rank") -> Record:
    """RuntimeError with the words of the ranks that failed; none is waited for longer than ``LIMIT``."""
    enough(machine, ranks)
    machine.release()  # the first rank's device is this process's, too
    folder = machine.folder / "cards" / f"{'-'.join(topics)}-{ranks}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    size = ["--tiny"] if machine.rehearsal else []
    given = [",".join(topics), machine.backend.name, folder.resolve(), *size]
    how, said = processes.run([*processes.torchrun(ranks), "-m", worker, *given], LIMIT + LONGER)
    if how != 0:
        failed = [f"{path.stem}: {path.read_text()}" for path in sorted(folder.glob("*.error"))]
        raise RuntimeError("; ".join(failed) or f"torchrun ended with {how}: {said[-1]}")
    found = [json.loads((folder / f"rank {rank}.json").read_text()) for rank in range(ranks)]
    return {
        "ranks": ranks,
        "checked": sum(own["checked"] for own in found),
        "worst": max(own["worst"] for own in found),
        "failures": [f"rank {rank}: {failure}" for rank, own in enumerate(found) for failure in own["failures"]],
        "times": {name: slowest([own["times"][name] for own in found]) for name in found[0]["times"]},
    }


def enough(machine: Machine, ranks: int) -> None:
    """Raises :class:`Absent` unless there is a device for each of the ranks."""
    host = machine.backend.device_type == "cpu"
    if host and ranks > min(RANKS):
        raise Absent(f"a rehearsal on the host is of {min(RANKS)} ranks")
    if not host and (there := torch.accelerator.device_count()) < ranks:
        raise Absent(f"{there} of {ranks} devices are here")


def slowest(times: list[Record]) -> Record:
    """Of the ranks: an exchange is over when the last one has it. ``gb_s``: what a rank sends in a second."""
    ms = max(time["ms"] for time in times)
    return {"sent": times[0]["sent"], "ms": ms, "gb_s": times[0]["sent"] / ms / 1e6}
