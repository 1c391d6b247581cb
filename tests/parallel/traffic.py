"""What ranks send each other is what the formulas say, and a reused step sends nothing for its blocks.

For B samples of S tokens, of which a rank has n = ⌈S/P⌉ (P = U·R), heads of together D numbers (with those that fill up
to a multiple of U), b bytes a number, in every attention and on every rank:

- Ulysses exchanges queries, keys, values and the output, all but the part that stays: 4·B·n·D·b·(U-1)/U
- Ring passes keys and values on R-1 times, U·n tokens of D/U numbers: 2·B·n·D·b·(R-1)
- T words that every rank has: Ulysses gathers their heads, D/U of each, to the U-1 others: B·T·D·b·(U-1)/U

and once a forward, of the C numbers that a token leaves with: B·n·C·b·(P-1). To agree, ranks send the digest and the
samples of a call (8 x 16 fp32 numbers) to P-1 others, for each call of a run's first step and the first one of its
second, third and last steps, and 5 numbers for each signal a deciding forward.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from math import ceil, prod
from typing import Any

import torch

import c4d
from bench.wire import Sent, Wire
from c4d import SequenceParallel
from tests.parallel.forwards import HEADS, VARIANTS, alone
from tests.parallel.job import BOTH, WAYS, Case, same, sharded
from tests.tiny import block_count

GATHER = "all_gather_into_tensor"
WORDS = {"hunyuan, mixed lengths of text": 9, "flux, batch of 2": 7}  # after what all samples lack is sliced away
SIZE = {"wan": 12, "hunyuan": 10, "flux": 12}  # of a head


class Expected:
    """The formulas for a model, in bytes of one rank."""

    def __init__(self, name: str, model: Any, how: SequenceParallel, heads: int, narrow: bool = False) -> None:
        case, self.u, self.r = VARIANTS[name], how.ulysses or 1, how.ring or 1
        family, b = name.split(",")[0], 2 if narrow else 4
        patch = 4 if family == "wan" else 1
        places = case.latents[1:2] if family == "flux" else case.latents[2:]
        batch, n = case.latents[0], ceil(prod(places) // patch / (self.u * self.r))
        width = ceil(heads / self.u) * self.u * SIZE[family]
        self.words, self.layers = WORDS.get(name, 0), block_count(case.name)
        self.ulysses = 4 * batch * n * width * b * (self.u - 1) // self.u
        self.ring = 2 * batch * n * width * b * (self.r - 1)
        self.text = batch * self.words * width * b * (self.u - 1) // self.u
        self.gather = batch * n * model.proj_out.out_features * b * (self.u * self.r - 1)

    @property
    def block(self) -> int:
        return self.ulysses + self.ring + self.text

    @property
    def calls(self) -> int:
        """Of a block: two exchanges, a gather of the words, and R - 1 times keys and values."""
        return (2 + bool(self.words) if self.u > 1 else 0) + self.r - 1


def formulas(name: str, how: SequenceParallel, heads: int, narrow: bool = False) -> None:
    model, x, _ = alone(name, heads)
    case = VARIANTS[name]
    if narrow:
        given = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in case.inputs().items()}
        model, x = case.build(num_attention_heads=heads).to(torch.bfloat16), x.to(torch.bfloat16)
        case = replace(case, inputs=lambda: given)
    expected = Expected(name, model, how, heads, narrow)
    with sharded(model, how), Wire() as wire:
        case.run(model, x, 500.0)
    assert wire.bytes == expected.layers * expected.block + expected.gather, (wire.sent, vars(expected))
    assert wire.sent[-1] == Sent(GATHER, expected.gather), wire.sent
    assert len(wire.sent) == expected.layers * expected.calls + 1, wire.sent


METHODS = {  # what a reused forward sends besides the final gather: blocks, and numbers to agree
    "stack": ("taylorseer-lite:interval=2,order=1@blocks", 0, 0),
    "head": ("first-block:threshold=1e9,max_skips=1,last=0", 1, 1),
    "signal": ("teacache:threshold=1e9,coefficients=1/0,signal=time_projection,max_skips=1,last=0", 0, 1),
}


def reused(kind: str, how: SequenceParallel) -> None:
    """Pass by pass over two runs: steps 1, 2, 3 and 6 are compared, one agreement a deciding forward, else no more."""
    name, (method, blocks, signals), sent = "wan", METHODS[kind], list[list[Sent]]()
    model, x, _ = alone(name, 4)
    expected = Expected(name, model, how, 4)
    others = expected.u * expected.r - 1
    with sharded(model, how) as ranks, c4d.cached(model, method, backend="cpu") as session:
        for _ in range(2):
            session.begin(range(6))
            for step in range(6):
                with Wire() as wire:
                    VARIANTS[name].run(model, x, 900.0 - 100 * step)
                sent.append(wire.sent)
    assert session.report().timelines == {"0": "CrCrCr"}
    for i, found in enumerate(sent):
        full, open_, measured = i % 2 == 0, i % 6 in (0, 1, 2, 5), bool(signals) and i % 6 != 0
        entered = expected.layers if full else blocks
        bytes_ = entered * expected.block + expected.gather + others * (512 * open_ + 20 * measured)
        assert sum(each.bytes for each in found) == bytes_, (i, found, vars(expected))
        assert len(found) == entered * expected.calls + 1 + open_ + measured, (i, found)
    assert ranks.collectives == 8 + 10 * signals, ranks.collectives


def output(how: SequenceParallel) -> None:
    """Reused at its output, a transformer sends nothing at all, but where calls are compared."""
    model, x, _ = alone("wan", 4)
    method = "taylorseer-lite:interval=4,order=1"
    with sharded(model, how) as ranks, c4d.cached(model, method, backend="cpu") as session:
        session.begin(range(5))
        for step in range(4):
            with Wire() as wire:
                VARIANTS["wan"].run(model, x, 900.0 - 100 * step)
    assert session.report().timelines == {"0": "Crrr"} and not wire.sent, wire.sent
    assert ranks.collectives == 3


def saving(kind: str, how: SequenceParallel) -> None:
    """The share of blocks and of bytes that a cache saves does not depend on how many ranks there are."""
    name, steps = "wan, even", 4
    case, method = VARIANTS[name], {**{k: m for k, (m, _, _) in METHODS.items()}, "modules": "fora:interval=2"}[kind]
    model = case.build(num_attention_heads=4)
    with c4d.cached(model, method, backend="cpu") as by_itself:
        case.loop(model, steps, by_itself.begin)
    expected, world = Expected(name, model, how, 4), (how.ulysses or 1) * (how.ring or 1)
    with sharded(model, how) as ranks, c4d.cached(model, method, backend="cpu") as session, Wire() as wire:
        case.loop(model, steps, session.begin)
    here, there = session.report(), by_itself.report()
    for what in ("timelines", "computed", "reused", "blocks_entered", "blocks_total", "modules_reused"):
        assert getattr(here, what) == getattr(there, what), what
    if kind != "signal":  # the timestep's embedding, which every rank has whole
        assert here.peak_bytes * world == there.peak_bytes, (here.peak_bytes, there.peak_bytes)
    compared = 5  # both calls of step 1, the first one of the others
    agreed = (world - 1) * (512 * compared + 20 * (ranks.collectives - compared))
    of_blocks = wire.bytes - agreed - 2 * steps * expected.gather
    if kind != "modules":  # which keeps its blocks, and reuses their attention
        assert of_blocks == here.blocks_entered * expected.block, (of_blocks, here, expected.block)
    else:
        assert of_blocks * 2 == 2 * steps * expected.layers * expected.block
    same(wire.sent)


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in WAYS[world].items():
        for name in ("wan, batch of 2", "hunyuan, mixed lengths of text", "flux, batch of 2"):
            found[f"{way}, bytes of {name}"] = functools.partial(formulas, name, how, 4)
        odd = HEADS[how.ulysses or 1]
        found[f"{way}, bytes of wan, {odd} heads"] = functools.partial(formulas, "wan", how, odd)
    way = BOTH[world]
    how = WAYS[world][way]
    found[f"{way}, bytes of wan, vace"] = functools.partial(formulas, "wan, vace", how, 4)
    found[f"{way}, bytes of flux, bf16"] = functools.partial(formulas, "flux, batch of 2", how, 4, narrow=True)
    for kind in METHODS:
        found[f"{way}, a reused forward sends little, {kind}"] = functools.partial(reused, kind, how)
    found[f"{way}, a reused forward sends nothing, output"] = functools.partial(output, how)
    for kind in (*METHODS, "modules"):
        found[f"{way}, what a cache saves, {kind}"] = functools.partial(saving, kind, how)
    return found
