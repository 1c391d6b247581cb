"""Part "bandwidth": what caching moves, against what a copy moves.

K features give (K + 1) · bytes of traffic in ``lincomb`` (K read, one written), two in a copy (one read, one written),
two in ``change`` (both read). Sets of tensors rotate, so that nothing is found in the device's last cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.accelerator import sweep
from bench.accelerator.machine import Machine
from bench.accelerator.records import Case, Record, said
from bench.accelerator.sets import COLD, HEADS, SHAPES, TINY, WEIGHTS, heads, rotating, shape_of
from c4d.backends.reference import Reference

ROUNDS = 7
Turn = Callable[[int], Any]


def cases(machine: Machine) -> list[Case]:
    found = []
    for model in TINY if machine.rehearsal else SHAPES:
        for K in range(1, 5):
            found.append(Case(f"lincomb K={K}, {model}", 5, lambda m=model, K=K: lincomb(machine, m, K)))
        found.append(Case(f"change, {model}", 4, lambda m=model: change(machine, m)))
    for model in HEADS:
        found.append(Case(f"norm_rotary, {model}", 5, lambda m=model: norm_rotary(machine, m)))
    return found + sweep.cases(machine)


def lincomb(machine: Machine, model: str, K: int) -> Record:
    shape, dtype = shape_of(machine, model)
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
    shape, dtype = shape_of(machine, model)
    sets = rotating(machine, shape, dtype, 3)

    def math_attention(now: Tensor, before: Tensor) -> Tensor:
        before = before.float()
        return torch.stack(((now.float() - before).abs().sum(), before.abs().sum()))

    compiled = compile_(machine, math_attention)
    turns: dict[str, Turn] = {
        "copy": lambda i: sets[i % len(sets)][-1].copy_(sets[i % len(sets)][0]),
        "c4d": lambda i: machine.backend.change(*sets[i % len(sets)][:2]),
        "eager": lambda i: Reference().change(*sets[i % len(sets)][:2]),
        "compiled": lambda i: compiled(*sets[i % len(sets)][:2]),
    }
    return record(machine, turns, sets[0][0].nbytes, 2)


def norm_rotary(machine: Machine, model: str) -> Record:
    """One read and one write of queries, [batch, tokens, heads, head size]; the tables are small beside them."""
    sets, weight, cos, sin = heads(machine, model)
    how: dict[str, Any] = {"eps": 1e-6, "interleaved": True}
    eager = Reference()
    compiled = compile_(machine, lambda x: eager.norm_rotary(x, weight, cos, sin, **how))
    turns: dict[str, Turn] = {
        "copy": lambda i: sets[i % len(sets)][1].copy_(sets[i % len(sets)][0]),
        "c4d": lambda i: machine.backend.norm_rotary(sets[i % len(sets)][0], weight, cos, sin, **how),
        "eager": lambda i: eager.norm_rotary(sets[i % len(sets)][0], weight, cos, sin, **how),
        "compiled": lambda i: compiled(sets[i % len(sets)][0]),
    }
    return record(machine, turns, sets[0][0].nbytes, 2)


def record(machine: Machine, turns: dict[str, Turn], nbytes: int, traffic: int) -> Record:
    """``traffic``: how many times ``nbytes`` a call moves; a copy moves two."""
    rounds, calls = (2, 2) if machine.rehearsal else (ROUNDS, 32)
    without = unable(machine, turns)
    turns = {name: turn for name, turn in turns.items() if name not in without}
    found = machine.batches(turns, rounds, calls, keep=max(1, min(calls, COLD // nbytes)))
    return {
        "without": without,
        "bytes": nbytes,
        "traffic": traffic,
        "ms": {name: figures["ms"] for name, figures in found.items()},
        "host_us": {name: figures["host_us"] for name, figures in found.items()},
    }


def unable(machine: Machine, turns: dict[str, Turn]) -> dict[str, str]:
    """Who of the others cannot do this here, and why: there may be no compiler for the device. c4d must be able."""
    found = {}
    for name in ("compiled", "cache-dit"):
        try:
            if name in turns:
                turns[name](0)
                machine.backend.synchronize()
        except Exception as error:  # a compiler's are of many classes
            found[name] = said(error)
    return found


def copy_bandwidth(machine: Machine) -> float:
    """Bytes read and written in a second by a large copy."""
    size = 2**16 if machine.rehearsal else 2**30
    x = torch.zeros(size, dtype=torch.uint8, device=machine.device)
    y = torch.empty_like(x)
    found = machine.batches({"copy": lambda i: y.copy_(x)}, rounds=5, calls=10)
    return 2 * size / (found["copy"]["ms"] / 1e3)


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
    except Exception as error:  # it is not there, or it cannot be imported beside this device's packages
        return {"cache-dit": raising(error)}
    states = []
    for tensors in sets:
        state = TaylorSeerState(n_derivatives=K - 1)
        state.state["dY_current"] = list(tensors[:K])
        state.current_step, state.last_non_approximated_step = 3, 1
        states.append(state)
    return {"cache-dit": lambda i: states[i % len(states)].approximate()}


def raising(error: Exception) -> Turn:
    def turn(i: int) -> Any:
        raise error

    return turn
