"""What is planned by formula is what ranks count: bytes sent in every forward, and bytes that their caches hold."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch

import c4d
from bench.wire import Wire
from c4d import SequenceParallel
from c4d.core.text.grammar import parse
from c4d.models import spec_for
from c4d.parallel import Degrees
from c4d.plan.run import Setup, run
from c4d.plan.table import Planner
from tests.parallel.forwards import HEADS, VARIANTS, hunyuan
from tests.parallel.job import BRANCHED, WAYS, Case, rank, same, sharded
from tests.tiny import Case as Model
from tests.tiny import rand

STEPS = 4
BRANCHES = ("cond", "uncond")
METHODS = {
    "no cache": None,
    "output": "taylorseer-lite:interval=2,order=1",
    "blocks": "taylorseer-lite:interval=2,order=1@blocks",
    "modules": "fora:interval=2",
    "first block": "first-block:threshold=1e9,max_skips=1,last=0",
    "slow waves": "freqca:interval=2",
    "modes": "dmd:interval=2",
}
MODELS = ("wan", "wan, vace", "wan, 3 tokens", "flux", "qwen", "hunyuan")


def model_of(name: str, heads: int, narrow: bool) -> tuple[Model, Any, dict[str, Any]]:
    """One without padded text, and the arguments of a forward."""
    case = VARIANTS[name]
    case = replace(case, inputs=hunyuan([1] * 9)) if name == "hunyuan" else case
    model = case.build(num_attention_heads=heads)
    given = {"hidden_states": rand(*case.latents, seed=3), **case.inputs()}
    if narrow:
        model, kept = model.to(torch.bfloat16), ("txt_ids", "img_ids", "guidance")
        given = {k: v.to(torch.bfloat16) if wide(v) and k not in kept else v for k, v in given.items()}
    return case, model, {**given, "timestep": torch.full((1,), 500.0 * case.unit), "return_dict": False}


def wide(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def sends(name: str, kind: str, how: SequenceParallel, heads: int, narrow: bool = False) -> None:
    """Both branches one after the other on all ranks, or each on its own: then the first step, which is pickled, and
    what both calls of a later one send."""
    _, model, given = model_of(name, heads, narrow)
    method, degrees = METHODS[kind], Degrees(how.ulysses or 1, how.ring or 1, how.cfg or 1)
    apart, counted, held = degrees.cfg > 1, list[int](), 0
    with sharded(model, how) as ranks:
        session = None if method is None else c4d.cached(model, method, backend="cpu", ranks=ranks)
        if session is not None:
            session.__enter__()
            session.begin([1000.0 - k for k in range(STEPS)], [1 - k / STEPS for k in range(STEPS)])
        for k in range(STEPS):
            for name_ in BRANCHES:
                with model.cache_context(name_):
                    step = {**given, "timestep": given["timestep"] * (1 - 0.1 * k)}
                    if apart and k == 0:
                        model(**step)
                        continue
                    with Wire() as wire:
                        model(**step)
                counted.append(wire.bytes)
        if session is not None:
            held = session.report().peak_bytes
            session.__exit__(None, None, None)
    if apart:  # of whose two calls each rank makes one
        counted = [sum(pair) for pair in zip(counted[::2], counted[1::2], strict=True)]
    same((counted, held))
    if rank() > 0:
        return
    there = model.to("meta")
    setup = Setup(there, spec_for(there), given, method and parse(method), STEPS, 2)
    forwards = run(setup, apart=apart).forwards
    planned = [sum(sum(each.bytes(degrees).values()) for each in one.told) for one in forwards]
    if apart:
        planned = planned[1:]  # the first step's are pickled
    assert counted == planned, (counted, planned)
    assert any(counted)
    if session is not None:
        (row,) = Planner(setup, heads).rows(degrees.world, how, None)
        assert row.cache == held, (row.cache, held)


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    ways = {**WAYS[world], **{way: how for way, how in BRANCHED[world].items() if not how.jointly}}
    for way, how in ways.items():
        for name in MODELS:
            for kind in METHODS:
                planned = functools.partial(sends, name, kind, how)
                found[f"{way}, planned, {name}, {kind}"] = functools.partial(planned, 4)
        odd = HEADS[how.ulysses or 1]
        found[f"{way}, planned, wan, {odd} heads"] = functools.partial(sends, "wan", "blocks", how, odd)
        found[f"{way}, planned, flux, bf16"] = functools.partial(sends, "flux", "modules", how, 4, narrow=True)
    return found
