"""How ranks end: with their groups; or one of them alone, and no other waits for it beyond the timeout."""

from __future__ import annotations

import functools
import gc
import os
import time
from dataclasses import replace
from typing import Any

import torch.distributed as dist

import c4d
from c4d import SequenceParallel
from tests.parallel.forwards import EXACT, VARIANTS
from tests.parallel.job import BOTH, BRANCHED, WAYS, Case, bits, error, gathered, raised, rank, same, sharded
from tests.subjects import Stop, raising_at
from tests.tiny import rand

SHORT = 2.0  # seconds; what a rank does between two collectives takes hundredths of one


def build() -> Any:
    return VARIANTS["wan"].build(num_attention_heads=4)


def anew(model: Any, how: SequenceParallel, timeout: float = SHORT) -> Any:
    """With groups of its own, which wait for a short time."""
    short = replace(how, timeout=timeout, groups="torch")
    return c4d.sharded(model, short, branches=how.cfg or 1, backend="cpu")


def held() -> tuple[int, int]:
    """Groups that torch.distributed knows, and open files (sockets, too) of this process."""
    return len(dist.distributed_c10d._world.pg_map), len(os.listdir("/proc/self/fd"))


def groups(how: SequenceParallel) -> None:
    """One block after another leaves the groups and sockets that there were; the same ranks can enter twice."""
    case, model = VARIANTS["wan"], build()
    x = rand(*case.latents, seed=3)
    want = [case.run(model, x, 500.0)] * (how.cfg or 1)

    def work() -> tuple[int, int]:
        ranks = anew(model, how, 60.0)  # nobody is to be waited for in vain here
        for _ in range(2):
            with ranks:
                got = [case.run(model, x, 500.0) for _ in want]
                inside = held()
            assert error(got, want) <= EXACT
        return inside

    before = held()
    for _ in range(3):
        inside = work()
        gc.collect()
        for _ in range(100):  # the store on rank 0 sees a little later that heartbeats have hung up
            if (after := held()) == before:
                break
            time.sleep(0.1)
        assert after == before < inside, (before, inside, after)
        assert before[1] < inside[1], (before, inside)


def exchanged(how: SequenceParallel) -> None:
    """An attention processor that a program exchanges inside the block would see a part of the tokens."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    case, model = VARIANTS["wan"], build()
    x = rand(*case.latents, seed=3)
    want = case.run(model, x, 500.0)
    with sharded(model, how):
        attention = model.blocks[1].attn1
        ours = attention.processor
        attention.processor = WanAttnProcessor()
        said = raised(lambda: case.run(model, x, 500.0), ValueError)
        assert "attentions with another processor (WanAttnProcessor)" in said, said
        same(said)
        attention.processor = ours
        got = case.run(model, x, 500.0)
    assert error(got, want) <= EXACT
    same(bits(got))


def gone(where: str, how: SequenceParallel) -> None:
    """The last rank raises within a block, before an exchange: it leaves at once, the others when their time is up, and
    they say which it was."""
    case, model, faulty = VARIANTS["wan"], build(), dist.get_world_size() - 1
    x = rand(*case.latents, seed=3)

    def work() -> None:
        with anew(model, how):
            for t in (900.0, 800.0):
                for _ in range(how.cfg or 1):
                    case.run(model, x, t)

    if rank() == faulty:
        raising_at(model.blocks[1], {"first": 0, "second": 1}[where])
    start = time.perf_counter()
    said = raised(work, *((Stop,) if rank() == faulty else (RuntimeError,)))
    seconds = time.perf_counter() - start
    told = gathered((said, seconds))
    assert rank() == faulty or said == f"LostRankError: rank {faulty} failed: Stop", told
    assert told[faulty][1] < SHORT and all(other < 3 * SHORT for _, other in told), told


def cases(world: int) -> dict[str, Case]:
    ways, found = {BOTH[world]: WAYS[world][BOTH[world]]}, dict[str, Case]()
    cfg = next(iter(BRANCHED[world]))
    for way, how in {**ways, cfg: BRANCHED[world][cfg]}.items():
        found[f"{way}, groups end with their block"] = functools.partial(groups, how)
    if world == 2:
        found["R2, a rank raises in its first step"] = functools.partial(gone, "first", WAYS[2]["R2"])
        for step in ("first", "second"):
            found[f"{cfg}, a rank raises in its {step} step"] = functools.partial(gone, step, BRANCHED[2][cfg])
        found["U2, a processor exchanged inside the block"] = functools.partial(exchanged, WAYS[2]["U2"])
    else:
        found["data2 x U2, groups end with their block"] = functools.partial(groups, SequenceParallel(2, 1, 1, 2))
    return found
