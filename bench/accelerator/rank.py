"""One rank of part "cards", which torchrun starts: ``-m bench.accelerator.rank TOPICS BACKEND FOLDER [--tiny]``.

Writes ``rank N.json`` into the folder, or ``rank N.error`` with its own words. After ``LIMIT`` seconds the system ends
it, whatever it waits for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.accelerator.device import off
from bench.accelerator.machine import Machine
from bench.accelerator.records import Record, said
from c4d.parallel import start
from c4d.parallel.agree import Agreement
from c4d.parallel.attention import Kernels, sp_attention
from c4d.parallel.collectives import Group

LIMIT = 300  # seconds of a rank
TIMEOUT = 120.0  # seconds of one collective; the first one also connects the ranks
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ATTENTION = {"float32": 1e-4, "bfloat16": 1e-2}  # relative error in the Euclidean norm, beside unsharded attention
TOKENS = {"HunyuanVideo": (118800, 24, 128), "Wan 14B 720p": (75600, 40, 128)}  # with heads and head size
TINY = {"HunyuanVideo": (64, 8, 16)}
Found = Iterator[tuple[str, float, float]]  # what, its error, the limit


@dataclass
class Rank:
    machine: Machine
    group: Any
    rank: int
    ranks: int

    def numbers(self, *shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
        """The same on every rank."""
        made = torch.randn(shape, generator=self.machine.backend.generator(seed))
        return made.to(self.machine.device, dtype)

    def all_to_all(self, x: Tensor) -> Tensor:
        """Part i of the first dimension goes to rank i; the result has a part of each rank, in their order."""
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x, group=self.group)
        return out

    def passed_on(self, x: Tensor) -> Tensor:
        """What the rank before has, while the next one gets ``x``."""
        out = torch.empty_like(x)
        after, before = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        pair = [dist.P2POp(dist.isend, x, after, self.group), dist.P2POp(dist.irecv, out, before, self.group)]
        for work in dist.batch_isend_irecv(pair):
            work.wait()
        return out


# -- topics


def collectives(r: Rank) -> Found:
    """Whole numbers, which no dtype rounds and no order of sums changes."""
    for name, dtype in DTYPES.items():

        def mine(rank: int, dtype: torch.dtype = dtype) -> Tensor:
            return (torch.arange(8 * r.ranks, device=r.machine.device) % 7 + rank).to(dtype)

        def wrong(found: Tensor, wanted: Tensor) -> float:
            return float(not torch.equal(found, wanted))

        every = [mine(rank) for rank in range(r.ranks)]
        x = mine(r.rank)
        dist.all_reduce(x, group=r.group)
        yield f"all_reduce, {name}", wrong(x, torch.stack(every).sum(0)), 0.5
        parts = [torch.empty_like(x) for _ in every]
        dist.all_gather(parts, mine(r.rank), group=r.group)
        yield f"all_gather, {name}", wrong(torch.cat(parts), torch.cat(every)), 0.5
        wanted = torch.cat([other.chunk(r.ranks)[r.rank] for other in every])
        yield f"all_to_all_single, {name}", wrong(r.all_to_all(mine(r.rank)), wanted), 0.5
        x = mine(r.rank)
        dist.broadcast(x, r.ranks - 1, group=r.group)
        yield f"broadcast, {name}", wrong(x, every[-1]), 0.5
        yield f"batch_isend_irecv, {name}", wrong(r.passed_on(mine(r.rank)), every[r.rank - 1]), 0.5


def sharded(r: Rank) -> Found:
    """Decisions of a cache, and attention, on a sequence of which each rank has a part, by what c4d uses for them."""
    backend, group = r.machine.backend, Group(r.group, r.ranks, r.rank)
    now, before = (r.numbers(r.ranks, 1023, 129, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    own = backend.change(now[r.rank], before[r.rank])
    sums = Agreement(group, r.ranks).all_sum(own[None], [(now[r.rank].numel(), now.numel())], failed=False)
    heard: list[Any] = [None] * r.ranks
    dist.all_gather_object(heard, sums, group=r.group)
    yield "every rank decides by the same bits", float(not all(sums == other for other in heard)), 0.5
    whole = r.machine.exact(now) - r.machine.exact(before)
    yield "numbers that decide", abs(sums[0][0] / float(whole.abs().sum()) - 1), 1e-5
    kernels = Kernels.of(backend)
    for name, dtype in DTYPES.items():
        q, k, v = (r.numbers(1, 128 * r.ranks, 2 * r.ranks, 64, dtype=dtype, seed=seed) for seed in range(3))
        whole = r.machine.exact(backend.attention(q, k, v).chunk(r.ranks, 1)[r.rank])
        mine = tuple(x.chunk(r.ranks, 1)[r.rank].contiguous() for x in (q, k, v))
        for kind, ways in {"Ulysses": (group, None), "Ring": (None, group)}.items():
            out, _ = sp_attention(mine, q.shape[1], kernels, *ways)
            yield f"{kind}, {name}", off(out, whole), ATTENTION[name]


def times(r: Rank) -> dict[str, Record]:
    """Medians of this rank, ms by the device's order of work, and the bytes that a rank sends."""
    found = {}
    for model, (tokens, heads, size) in (TINY if r.machine.rehearsal else TOKENS).items():
        x = r.machine.rand(tokens // r.ranks * heads * size, dtype=torch.bfloat16)
        found[f"all-to-all of queries, {model}"] = timed(r, lambda x=x: r.all_to_all(x)) | {
            "sent": x.nbytes // r.ranks * (r.ranks - 1)
        }
        pair = torch.stack((x, x))
        found[f"keys and values to the next rank, {model}"] = timed(r, lambda x=pair: r.passed_on(x)) | {
            "sent": pair.nbytes
        }
    return found


def timed(r: Rank, act: Callable[[], Any]) -> Record:
    taken, together = [], torch.zeros(1, device=r.machine.device)
    for turn in range(3 if r.machine.rehearsal else 13):
        dist.all_reduce(together, group=r.group)  # all are here
        r.machine.backend.synchronize()
        first = r.machine.mark()
        act()
        last = r.machine.mark()
        r.machine.backend.synchronize()
        if turn > 1:  # the first ones connect, and fill the allocator's pool
            taken.append(r.machine.ms(first, last))
    return {"ms": median(taken)}


CHECKS = {"collectives": collectives, "sharded attention": sharded}
TIMES = "times"


# -- a process


def measure(r: Rank, topics: list[str]) -> Record:
    """An error ends the rank, and so all of them: the others wait for it."""
    count, most, failures = 0, 0.0, []
    for topic in topics:
        for what, error, limit in CHECKS[topic](r) if topic in CHECKS else ():
            count, share = count + 1, error / limit
            most = max(most, share if share == share else 1e30)
            if not share <= 1:
                failures.append(f"{what}: {share:.3g} of its limit")
    exchanges = times(r) if TIMES in topics else {}
    return {"checked": count, "worst": most, "failures": failures, "times": exchanges}


def main(work: Callable[[Rank, list[str]], Record] = measure) -> None:
    topics, name, folder, *tiny = sys.argv[1:]
    rank = os.environ["RANK"]
    signal.alarm(LIMIT)
    try:
        machine = Machine.find(name, rehearsal=bool(tiny))
        job = start(machine.backend, TIMEOUT)
        everyone = machine.backend.group(None, timedelta(seconds=TIMEOUT))
        with torch.no_grad():
            found = work(Rank(machine, everyone, job.rank, job.world), topics.split(","))
        job.end()
    except BaseException as error:
        Path(folder, f"rank {rank}.error").write_text(said(error))
        raise
    Path(folder, f"rank {rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
