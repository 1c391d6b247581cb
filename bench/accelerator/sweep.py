"""Tile sizes and warps of the backend's own kernels, each against what is set now; for backends that let them be named.

Read of ``c4d.backends.<name>``: ``lincomb.lincomb(…, block=BLOCK, warps=WARPS)``, ``lincomb.change(…, block=, warps=,
programs=PROGRAMS)`` and ``norm_rotary.launch(…, tile=TILE, warps=None)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Record
from bench.accelerator.sets import COLD, WEIGHTS, heads, rotating, shape_of

BLOCKS, WARPS, PROGRAMS = (1024, 2048, 4096, 8192), (2, 4, 8), (256, 512, 1024)
TILES = (512, 1024, 2048, 4096)
Call = Callable[..., Any]  # (i, **what is swept)


def cases(machine: Machine) -> list[Case]:
    models = ("FLUX",) if machine.rehearsal else ("FLUX", "HunyuanVideo")
    found = []
    for model in models:
        found.append(Case(f"sweep of lincomb K=2, {model}", 15, lambda m=model: lincomb(machine, m)))
        found.append(Case(f"sweep of change, {model}", 40, lambda m=model: change(machine, m)))
    for model in ("FLUX",) if machine.rehearsal else ("FLUX", "Wan 1.3B"):
        found.append(Case(f"sweep of norm_rotary, {model}", 15, lambda m=model: norm_rotary(machine, m)))
    return found


def lincomb(machine: Machine, model: str) -> Record:
    module = named(machine, "lincomb", ("lincomb", "BLOCK", "WARPS"))
    shape, dtype = shape_of(machine, model)
    sets = rotating(machine, shape, dtype, 2)
    return points(
        machine,
        lambda i, **how: module.lincomb(sets[i % len(sets)], WEIGHTS[1], **how),
        {"block": module.BLOCK, "warps": module.WARPS},
        {"block": BLOCKS, "warps": WARPS},
        sets[0][0].nbytes,
    )


def change(machine: Machine, model: str) -> Record:
    module = named(machine, "lincomb", ("change", "BLOCK", "WARPS", "PROGRAMS"))
    shape, dtype = shape_of(machine, model)
    sets = rotating(machine, shape, dtype, 2)
    return points(
        machine,
        lambda i, **how: module.change(*sets[i % len(sets)], **how),
        {"block": module.BLOCK, "warps": module.WARPS, "programs": module.PROGRAMS},
        {"block": BLOCKS, "warps": WARPS, "programs": PROGRAMS},
        sets[0][0].nbytes,
    )


def norm_rotary(machine: Machine, model: str) -> Record:
    module = named(machine, "norm_rotary", ("launch", "TILE", "HEAD", "TOKEN"))
    sets, weight, cos, sin = heads(machine, model)
    norm = module.HEAD if weight.numel() == sets[0][0].shape[-1] else module.TOKEN
    return points(
        machine,
        lambda i, **how: module.launch(sets[i % len(sets)][0], weight, cos, sin, 1e-6, norm, True, cos.shape[0], **how),
        {"tile": module.TILE, "warps": None},
        {"tile": TILES, "warps": (None, *WARPS)},
        sets[0][0].nbytes,
    )


def named(machine: Machine, file: str, names: Iterable[str]) -> Any:
    """The backend's file of kernels, if it has these names."""
    place = f"{type(machine.backend).__module__}.{file}"
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise Absent(f"the backend {machine.backend.name} has no kernels to sweep ({place})") from error
    if lacking := [name for name in names if not hasattr(module, name)]:
        raise Absent(f"{place} lacks {', '.join(lacking)}")
    return module


def points(
    machine: Machine, call: Call, chosen: Mapping[str, Any], swept: Mapping[str, Iterable[Any]], nbytes: int
) -> Record:
    """ms of every point, in turns; one that the kernel refuses is left out."""
    every = [dict(zip(swept, values, strict=True)) for values in product(*swept.values())]
    turns: dict[str, Callable[[int], Any]] = {}
    refused: list[str] = []
    for how in [dict(chosen), *(how for how in every if how != chosen)]:
        name = " ".join(f"{key}={value}" for key, value in how.items())
        try:
            call(0, **how)
        except Exception as error:  # too many registers, too much shared memory
            refused.append(f"{name}: {type(error).__name__}")
            continue
        turns[name] = lambda i, how=how: call(i, **how)
    machine.backend.synchronize()
    found = machine.batches(turns, rounds=5, calls=32, keep=max(1, min(32, COLD // nbytes)))
    ms = {name: figures["ms"] for name, figures in found.items()}
    return {"chosen": next(iter(turns)), "ms": ms, "bytes": nbytes, "refused": refused}
