"""Part "bandwidth": what caching moves, against what a copy moves.

K features give (K + 1) · bytes of traffic in ``lincomb`` (K read, one written), two in a copy (one read, one written),
two in ``change`` (both read). Sets of tensors rotate, so that nothing is found in the device's last cache.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.gpu.machine import Machine
from bench.gpu.records import Absent, Case, Record
from c4d.backends.reference import Reference

SHAPES = {
    "FLUX": ((1, 4608, 3072), torch.bfloat16),
    "Wan 1.3B": ((1, 32760, 1536), torch.float32),  # the exit of Wan is fp32
    "Wan 14B 720p": ((1, 75600, 5120), torch.float32),
    "Wan 14B 720p, bf16": ((1, 75600, 5120), torch.bfloat16),
    "HunyuanVideo": ((1, 118800, 3072), torch.bfloat16),
}
TINY = {"FLUX": ((1, 48, 32), torch.bfloat16), "Wan 1.3B": ((1, 64, 16), torch.float32)}
COLD = 2**29  # bytes that go by before a tensor is met again: several times the last cache
WEIGHTS = ([1.0], [2.0, -1.0], [3.0, -3.0, 1.0], [4.0, -6.0, 4.0, -1.0])
SWEPT = ("FLUX", "HunyuanVideo")
BLOCKS, WARPS = (512, 1024, 2048, 4096, 8192), (2, 4, 8)
ROUNDS = 7
TUNED = "c4d.backends.{}.lincomb"  # reads its module's BLOCK and WARPS at each launch
Turn = Callable[[int], Any]


def cases(machine: Machine) -> list[Case]:
    found = []
    for model in TINY if machine.rehearsal else SHAPES:
        for K in range(1, 5):
            found.append(Case(f"lincomb K={K}, {model}", 5, lambda m=model, K=K: lincomb(machine, m, K)))
        found.append(Case(f"change, {model}", 4, lambda m=model: change(machine, m)))
    for model in SWEPT[:1] if machine.rehearsal else SWEPT:
        found.append(Case(f"sweep of lincomb K=2, {model}", 15, lambda m=model: sweep(machine, m)))
    return found


def lincomb(machine: Machine, model: str, K: int) -> Record:
    shape, dtype = _shape(machine, model)
    sets = rotating(machine, shape, dtype, K + 1)
    weights = WEIGHTS[K - 1]
    there = torch.tensor(weights, device=machine.device)
    turns: dict[str, Turn] = {
        "copy": lambda i: sets[i % len(sets)][-1].copy_(sets[i % len(sets)][0]),
        "c4d": lambda i: machine.backend.lincomb(sets[i % len(sets)][:K], weights),
        "c4d, weights on the device": lambda i: machine.backend.lincomb(sets[i % len(sets)][:K], there),
        "eager": lambda i: Reference().lincomb(sets[i % len(sets)][:K], weights),
    }
    compiled = written(machine, weights)
    turns["compiled"] = lambda i: compiled(sets[i % len(sets)][:K])
    turns.update(peer(sets, K))
    return record(machine, turns, sets[0][0].nbytes, K + 1)


def change(machine: Machine, model: str) -> Record:
    shape, dtype = _shape(machine, model)
    sets = rotating(machine, shape, dtype, 3)

    def written_out(now: Tensor, before: Tensor) -> Tensor:
        before = before.float()
        return torch.stack(((now.float() - before).abs().sum(), before.abs().sum()))

    compiled = compile_(machine, written_out)
    turns: dict[str, Turn] = {
        "copy": lambda i: sets[i % len(sets)][-1].copy_(sets[i % len(sets)][0]),
        "c4d": lambda i: machine.backend.change(*sets[i % len(sets)][:2]),
        "eager": lambda i: Reference().change(*sets[i % len(sets)][:2]),
        "compiled": lambda i: compiled(*sets[i % len(sets)][:2]),
    }
    return record(machine, turns, sets[0][0].nbytes, 2)


def sweep(machine: Machine, model: str) -> Record:
    """Each block size with each count of warps, in turns; whether what is set now is the best of them."""
    try:
        module: Any = importlib.import_module(TUNED.format(machine.backend.name))
        chosen = module.BLOCK, module.WARPS
    except (ImportError, AttributeError) as error:
        raise Absent(f"the backend names no BLOCK and WARPS to sweep ({error})") from error
    shape, dtype = _shape(machine, model)
    sets = rotating(machine, shape, dtype, 2)

    def turn(block: int, warps: int) -> Turn:
        def call(i: int) -> None:
            module.BLOCK, module.WARPS = block, warps
            machine.backend.lincomb(sets[i % len(sets)], WEIGHTS[1])

        return call

    points = dict.fromkeys([chosen, *((block, warps) for block in BLOCKS for warps in WARPS)])
    try:
        found = machine.batches({f"{b} x {w}": turn(b, w) for b, w in points}, rounds=3)
    finally:
        module.BLOCK, module.WARPS = chosen
    ms = {name: figures["ms"] for name, figures in found.items()}
    return {"chosen": "{} x {}".format(*chosen), "ms": ms, "bytes": sets[0][0].nbytes, "traffic": 3}


def record(machine: Machine, turns: dict[str, Turn], nbytes: int, traffic: int) -> Record:
    """``traffic``: how many times ``nbytes`` a call moves; a copy moves two."""
    found = machine.batches(turns, rounds=2 if machine.rehearsal else ROUNDS, calls=2 if machine.rehearsal else 32)
    return {
        "bytes": nbytes,
        "traffic": traffic,
        "ms": {name: figures["ms"] for name, figures in found.items()},
        "host_us": {name: figures["host_us"] for name, figures in found.items()},
    }


def copy_bandwidth(machine: Machine) -> float:
    """Bytes read and written in a second by a large copy."""
    size = 2**16 if machine.rehearsal else 2**30
    x = torch.zeros(size, dtype=torch.uint8, device=machine.device)
    y = torch.empty_like(x)
    found = machine.batches({"copy": lambda i: y.copy_(x)}, rounds=5, calls=10)
    return 2 * size / (found["copy"]["ms"] / 1e3)


def rotating(machine: Machine, shape: Sequence[int], dtype: torch.dtype, count: int) -> list[list[Tensor]]:
    """Sets of ``count`` tensors, as many sets as it takes to be ``COLD``."""
    one = machine.rand(*shape, dtype=dtype)
    needed = 2 if machine.rehearsal else max(2, -(-COLD // (count * one.nbytes)))
    return [[one.clone() for _ in range(count)] for _ in range(needed)]


def written(machine: Machine, weights: Sequence[float]) -> Callable[[Sequence[Tensor]], Tensor]:
    """What a user would write, compiled; its weights are constants, which favours it."""

    def expression(features: Sequence[Tensor]) -> Tensor:
        total = features[0].float() * weights[0]
        for feature, weight in zip(features[1:], weights[1:], strict=True):
            total = total + feature.float() * weight
        return total.to(features[0].dtype)

    return compile_(machine, expression)


def compile_(machine: Machine, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if machine.rehearsal:
        return function
    torch._dynamo.reset()
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")
    return compiled


def peer(sets: list[list[Tensor]], K: int) -> dict[str, Turn]:
    """cache-dit's evaluation of a Taylor series of K terms, on the derivatives that it keeps."""
    try:
        from cache_dit.caching.cache_contexts.calibrators.taylorseer import TaylorSeerState
    except ImportError:
        return {}
    states = []
    for tensors in sets:
        state = TaylorSeerState(n_derivatives=K - 1)
        state.state["dY_current"] = list(tensors[:K])
        state.current_step, state.last_non_approximated_step = 3, 1
        states.append(state)
    return {"cache-dit": lambda i: states[i % len(states)].approximate()}


def _shape(machine: Machine, model: str) -> tuple[tuple[int, ...], torch.dtype]:
    return (TINY if machine.rehearsal else SHAPES)[model]
