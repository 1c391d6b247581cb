"""A rollout on several ranks: each keeps the keys and values of its heads, and all get one process's clip."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import c4d
from c4d import SequenceParallel
from c4d.causal.memory import kv_bytes
from tests.parallel.forwards import HEADS
from tests.parallel.job import BRANCHED, CPU, WAYS, Case, bits, error, passes, raised, same, sharded
from tests.pipes import transformer, wan_parts

SETTINGS: dict[str, Any] = dict(block=2, window=5, sink=1, shift=3.0, text=16, height=40, width=24)
GUIDED = {**SETTINGS, "steps": 3, "guidance": 4.0}
METHOD = "first-block:threshold=0.3"
FRAMES = 29  # 8 of latents, so that the window drops some; 15 tokens each, which divide by neither 2 nor 4


@functools.cache
def pipe(heads: int) -> Any:
    from diffusers import WanPipeline

    parts, config = wan_parts()
    return WanPipeline(**parts, transformer=transformer(**{**config, "num_attention_heads": heads}))


def clip(heads: int, settings: dict[str, Any]) -> tuple[Tensor, int]:
    """What is made, and the most that keys and values took."""
    stream = c4d.rollout(pipe(heads), backend=CPU, **settings)(
        "a red circle", frames=FRAMES, generator=torch.Generator().manual_seed(1)
    )
    parts, held = [], 0
    for part in stream:
        parts.append(part)
        held = max(held, sum(cache.bytes() for cache in stream.cache.values()))
    return torch.cat(parts, 1), held


alone = functools.cache(lambda heads, guided: clip(heads, GUIDED if guided else SETTINGS))


def rolls(how: SequenceParallel, heads: int, guided: bool) -> None:
    want, _ = alone(heads, guided)
    with sharded(pipe(heads), how):
        got, held = clip(heads, GUIDED if guided else SETTINGS)
    same(bits(got))
    assert error(got, want) <= 1e-5
    branches = 2 if guided and how.cfg == 1 else 1
    expected = kv_bytes(pipe(heads).transformer, 5, 15, itemsize=4, ranks=how.ulysses or 1, branches=branches)
    assert held == expected, (held, expected)


def cached(how: SequenceParallel) -> None:
    """Inside a block, with the same decisions everywhere."""
    settings = {**SETTINGS, "steps": 5}
    with c4d.cached(pipe(4), METHOD, backend=CPU) as session:
        want, _ = clip(4, settings)
        expected = passes(session)
    with sharded(pipe(4), how), c4d.cached(pipe(4), METHOD, backend=CPU) as session:
        got, _ = clip(4, settings)
        assert passes(session) == expected
    assert any(not entry.computed for entry in session.trace)
    same(bits(got))
    assert error(got, want) <= 1e-4


def refused(how: SequenceParallel) -> None:
    with sharded(pipe(4), how):
        said = raised(lambda: clip(4, SETTINGS), RuntimeError)
    assert "Ulysses alone" in said and "use ring=1" in said, said


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in WAYS[world].items():
        if how.ring == 1:
            found[f"rollout, {way}"] = functools.partial(rolls, how, 4, False)
            heads = HEADS[how.ulysses or 1]
            found[f"rollout, {way}, {heads} heads"] = functools.partial(rolls, how, heads, False)
            found[f"rollout, {way}, guided"] = functools.partial(rolls, how, 4, True)
            found[f"rollout, {way}, cached"] = functools.partial(cached, how)
        else:
            found[f"rollout, {way} is refused"] = functools.partial(refused, how)
    for way, how in BRANCHED[world].items():
        found[f"rollout, {way}, guided"] = functools.partial(rolls, how, 4, True)
    return found
