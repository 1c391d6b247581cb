"""Spreading beside what else acts on a model, and what it leaves behind: nothing."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import c4d
from c4d import SequenceParallel
from tests.parallel.forwards import EXACT, VARIANTS
from tests.parallel.job import BOTH, BRANCHED, CPU, WAYS, Case, bits, error, passes, raised, same, sharded, state
from tests.seam.test_coexist import COMPILE, OFFLOADS, add_lora, graphs
from tests.subjects import Stop, raising_at
from tests.tiny import rand

BLOCKS, HEAD = "taylorseer-lite:interval=2,order=1@blocks", "first-block:threshold=1e9,max_skips=1,last=0"
FAMILIES = ("wan", "hunyuan, mixed lengths of text", "flux")


def build(name: str) -> Any:
    return VARIANTS[name].build(num_attention_heads=4)


def blocks(model: Any) -> Any:
    return model.blocks if hasattr(model, "blocks") else model.single_transformer_blocks


def cached(name: str, model: Any, method: str, how: SequenceParallel, steps: int = 4) -> tuple[Any, Any]:
    with sharded(model, how), c4d.cached(model, method, backend="cpu") as session:
        return VARIANTS[name].loop(model, steps, session.begin), session


def compiled(name: str, how: SequenceParallel) -> None:
    """Blocks that are compiled as one graph each, with their collectives in it, under a cache."""
    few = {"num_layers": 2} if name == "wan" else {"num_layers": 1, "num_single_layers": 1}
    eager, model = (VARIANTS[name].build(num_attention_heads=4, **few) for _ in range(2))
    want, by_itself = cached(name, eager, BLOCKS, how)
    model.compile_repeated_blocks(**COMPILE)
    (got, session), count = graphs(lambda: cached(name, model, BLOCKS, how))
    found = error(got, want)
    assert found <= 1e-5 and passes(session) == passes(by_itself), found
    assert count == (1 if name == "wan" else 2), count  # a kind of block, a graph
    x, plain = rand(*VARIANTS[name].latents, seed=3), VARIANTS[name]
    assert error(plain.run(model, x, 500.0), plain.run(eager, x, 500.0)) <= EXACT  # all of the work is its own again


def beside(name: str, offload: str, how: SequenceParallel) -> None:
    """LoRA and an offload, set up before; a cache on top."""
    plain, model = build(name), build(name)
    add_lora(plain)
    with c4d.cached(plain, BLOCKS, backend="cpu") as by_itself:
        want = VARIANTS[name].loop(plain, 4, by_itself.begin)
    add_lora(model)
    prepare, _ = OFFLOADS[offload]
    prepare(model)
    got, session = cached(name, model, BLOCKS, how)
    found = error(got, want)
    assert found <= 1e-4 and passes(session) == passes(by_itself), found


def restored(name: str, how: SequenceParallel) -> None:
    case, model = VARIANTS[name], build(name)
    want, before = case.loop(model, 2), state(model)
    for _ in range(2):
        _, session = cached(name, model, HEAD, how)
        assert session.report().reused
        changed = [pair for pair in zip(before, state(model), strict=True) if pair[0] != pair[1]]
        assert not changed, changed[:3]
        assert error(case.loop(model, 2), want) == 0.0


def aborted(name: str, how: SequenceParallel) -> None:
    """All ranks are stopped within a block of the second step; the next request is right."""
    case, model = VARIANTS[name], build(name)
    with c4d.cached(model, HEAD, backend="cpu") as session:
        want = case.loop(model, 4, session.begin)
    with sharded(model, how), c4d.cached(model, HEAD, backend="cpu") as session:
        handle = raising_at(blocks(model)[-1], 1)
        raised(lambda: case.loop(model, 4, session.begin), Stop)
        handle.remove()
        got = case.loop(model, 4, session.begin)
    found = error(got, want)
    assert found <= 1e-4, found
    same(bits(*got))


def inside_out(name: str, how: SequenceParallel) -> None:
    """The cache entered first, and left last."""
    case, model = VARIANTS[name], build(name)
    with c4d.cached(model, HEAD, backend="cpu") as by_itself:
        want = case.loop(model, 4, by_itself.begin)
    before, ranks = state(model), sharded(model, how)
    with c4d.cached(model, HEAD, backend="cpu", ranks=ranks) as session, ranks:
        got = case.loop(model, 4, session.begin)
    assert state(model) == before
    found = error(got, want)
    assert found <= 1e-4 and passes(session) == passes(by_itself), found


def forgotten(name: str, how: SequenceParallel) -> None:
    """A cache that was entered before the ranks, and not told of them, would decide on each of them alone."""
    model = build(name)
    with c4d.cached(model, HEAD, backend="cpu") as session, sharded(model, how):
        said = raised(lambda: VARIANTS[name].loop(model, 2, session.begin), RuntimeError)
    assert "enter c4d.sharded before it, or give both to one c4d.accelerate(" in said, said


def in_one(name: str, how: SequenceParallel) -> None:
    """One context, and one without a block, have the ranks, the attention and the cache."""
    case, model = VARIANTS[name], build(name)
    with c4d.cached(model, HEAD, backend="cpu") as by_itself:
        want = case.loop(model, 4, by_itself.begin)
    before = state(model)
    how = replace(how, timeout=60.0, groups="torch")
    given: dict[str, Any] = {"cache": HEAD, "parallel": how, "branches": how.cfg or 1, "backend": CPU}
    with c4d.accelerate(model, **given) as session:
        got = case.loop(model, 4, session.begin)
    assert passes(session.cache) == passes(by_itself) and session.ranks is not None and session.attention is None
    assert "ulysses" in session.lines()[0].lower() or "ring" in session.lines()[0].lower(), session.lines()
    assert state(model) == before
    session = c4d.enable(model, **given)
    again = case.loop(model, 4, session.begin)
    c4d.disable(model)
    assert state(model) == before and max(error(got, want), error(again, want)) <= 1e-4
    same(bits(*got, *again))


def cases(world: int) -> dict[str, Case]:
    way = BOTH[world]
    how, found = WAYS[world][way], dict[str, Case]()
    for name in FAMILIES if world == 2 else FAMILIES[1:2]:
        found[f"{way}, {name}, left as it was"] = functools.partial(restored, name, how)
        found[f"{way}, {name}, after one that was given up"] = functools.partial(aborted, name, how)
    for each, branched in BRANCHED[world].items():
        found[f"{each}, wan, after one that was given up"] = functools.partial(aborted, "wan", branched)
    found[f"{way}, cache entered first"] = functools.partial(inside_out, "wan", how)
    found[f"{way}, all in one context"] = functools.partial(in_one, "wan", how)
    found[f"{way}, cache not told of the ranks"] = functools.partial(forgotten, "wan", how)
    if world == 2:  # what others do to a model is the same on four ranks, and compilation takes seconds
        for name, offload in (("wan", "group-blocks"), ("hunyuan, mixed lengths of text", "group-leaves")):
            found[f"{way}, {name}, LoRA and {offload}"] = functools.partial(beside, name, offload, how)
        found["R2, wan, compiled"] = functools.partial(compiled, "wan", WAYS[2]["R2"])
        found["U2, flux, compiled"] = functools.partial(compiled, "flux", WAYS[2]["U2"])
    return found
