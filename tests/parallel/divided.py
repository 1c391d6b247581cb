"""Weights divided over ranks: the same bits, a part of the bytes, and no block is gathered that a step skips."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed.fsdp._fully_shard._fsdp_param_group as fsdp

import c4d
from c4d import SequenceParallel
from c4d.core.integration.offload import divided_over
from tests.denoisers import ENTRIES, rand
from tests.parallel.forwards import VARIANTS
from tests.parallel.job import BRANCHED, CPU, WAYS, Case, error, gathered, passes, raised, sharded
from tests.parallel.neighbours import HEAD, blocks, build
from tests.subjects import SUBJECTS, Stop, raising_at

ENTRY = {entry.name: entry for entry in ENTRIES}
OUTSIDE = "DiTTransformer2DModel", "HunyuanDiT2DModel"  # the first reads weights of its first block after the last one
BLOCKS, OUTPUT = "taylorseer-lite:interval=2,order=1,last=0@blocks", "fora:interval=2,last=0@output"
METHODS = {"blocks": BLOCKS, "output": OUTPUT, "measured": HEAD, "inside": "fora:interval=2,last=0"}
# Reads the first block's norm, outside of the block's forward.
METHODS["at the entry"] = "teacache:threshold=9,coefficients=1/0,signal=modulated_input,max_skips=1,last=0"


def divide(model: Any, mode: str = "divided") -> Any:
    c4d.memory(SimpleNamespace(components={"transformer": model}, transformer=model), mode, backend=CPU)
    return model


def size(model: Any) -> int:
    """Bytes of weights on this rank."""
    return sum((weight.to_local() if hasattr(weight, "to_local") else weight).nbytes for weight in model.parameters())


class Gathered:
    """Inside the block, the parts of a model whose weights are gathered, in order."""

    def __enter__(self) -> list[str]:
        plain, self.plain, self.names = fsdp.foreach_all_gather, fsdp.foreach_all_gather, list[str]()

        def noted(params: Any, *more: Any) -> Any:
            self.names.append(params[0]._param_fqn.rpartition(".")[0])
            return plain(params, *more)

        fsdp.foreach_all_gather = noted
        return self.names

    def __exit__(self, *exc: object) -> None:
        fsdp.foreach_all_gather = self.plain


def example(name: str) -> None:
    """Every rank has its part, each weight is somewhere, and the forward is that of the whole model."""
    entry, x = ENTRY[name], rand(*ENTRY[name].latents, seed=3)
    model = entry.build()
    want, whole = entry.run(model, x, 500.0), size(model)
    divide(model)
    mine = gathered(size(model))
    assert sum(mine) == whole and max(mine) <= 0.55 * whole, (mine, whole)
    for _ in range(2):
        got = entry.run(model, x, 500.0)
        assert all(map(torch.equal, got, want)), error(got, want)
    assert gathered(size(model)) == mine


def together(name: str, method: str, how: SequenceParallel, mode: str) -> None:
    """Beside what spreads the tokens, and a cache."""
    case, plain, model = VARIANTS[name], build(name), divide(build(name), mode)
    with sharded(plain, how), c4d.cached(plain, method, backend="cpu") as expected:
        want = case.loop(plain, 4, expected.begin)
    with Gathered() as names, sharded(model, how), c4d.cached(model, method, backend="cpu") as session:
        got = case.loop(model, 4, session.begin)
    assert error(got, want) == 0.0 and passes(session) == passes(expected)
    assert session.report().reused, "or nothing is seen"
    ran = [entry.blocks for entry in session.trace]
    inside = [each for each in names if "blocks." in each]
    read = len(session.trace) if method == METHODS["at the entry"] else 0
    assert len(inside) == sum(ran) + read, (len(inside), ran)
    told = gathered(names)
    assert all(told[rank] == names for rank in divided_over(model)), told


def aborted(how: SequenceParallel) -> None:
    """All ranks are stopped within a block, whose weights are whole then; the next request is right."""
    case, model = VARIANTS["wan"], build("wan")
    with sharded(model, how), c4d.cached(model, HEAD, backend="cpu") as session:
        want = case.loop(model, 4, session.begin)
    mine = size(divide(model))
    with sharded(model, how), c4d.cached(model, HEAD, backend="cpu") as session:
        handle = raising_at(blocks(model)[-1], 1)
        raised(lambda: case.loop(model, 4, session.begin), Stop)
        handle.remove()
        assert size(model) == mine
        got = case.loop(model, 4, session.begin)
    assert error(got, want) == 0.0


def pipeline() -> None:
    """A request of a pipeline, its other components whole on each rank."""
    subject = SUBJECTS["wan"]
    want, pipe = subject.ask(subject.build()), subject.build()
    c4d.memory(pipe, "divided+tiled", backend=CPU)
    assert torch.equal(subject.ask(pipe), want)
    said = raised(lambda: c4d.memory(pipe, "full", backend="cpu"), ValueError)
    assert "the weights of transformer are divided over ranks already: load the pipeline anew" in said


def refused(how: SequenceParallel, mode: str) -> None:
    """Ranks that would run other blocks: of another branch, of other prompts, or with a cache that decides alone."""
    model = divide(build("wan"), mode)
    said = raised(lambda: sharded(model, how), ValueError)
    assert "which do not make every forward together" in said, said
    said = raised(lambda: c4d.cached(model, BLOCKS, backend="cpu"), ValueError)
    assert "divided over ranks" in said and "enter c4d.sharded before c4d.cached" in said
    said = raised(lambda: divide(build("wan"), "divided:ranks=3"), ValueError)
    assert "ranks are no whole number of times 3: give ranks=2" in said
    said = raised(lambda: divide(ENTRY[OUTSIDE[0]].build()), ValueError)
    assert f"{OUTSIDE[0]} does not use its blocks as wholes alone (diffusers says so): take components" in said


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    data = SequenceParallel(world // 2, 1, cfg=1, data=2)
    for way, how in {"data2": data, **BRANCHED[world]}.items():
        found[f"{way}, weights divided over too many"] = functools.partial(refused, how, "divided")
    if world == 4:
        for way, how in {"data2 x U2": data, **BRANCHED[4]}.items():
            found[f"{way}, weights divided"] = functools.partial(together, "wan", BLOCKS, how, "divided:ranks=2")
        return found
    for way, how in WAYS[2].items():
        for what, method in METHODS.items():
            for name in ("wan", "flux") if what != "at the entry" else ("flux",):
                run = functools.partial(together, name, method, how, "divided")
                found[f"{way}, {name}, weights divided, cache {what}"] = run
    found["weights divided, after a request that was given up"] = functools.partial(aborted, WAYS[2]["U2"])
    found["weights divided, a pipeline"] = pipeline
    for name in ENTRY:
        if name not in OUTSIDE:
            found[f"weights divided, {name}"] = functools.partial(example, name)
    return found
