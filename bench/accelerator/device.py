"""What a device must do besides arithmetic: replay a graph, copy beside its work, count its memory, pass the suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench import processes
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Record

Checks = Iterable[tuple[str, Callable[[], float], float]]  # what, its error, the limit
HIDDEN = 0.5  # of the shorter of a copy and the arithmetic beside it
ROUNDED = 4096  # bytes that an allocator may add to a tensor
REPLAYED = 8e-3  # relative error of bf16 features with fp32 weights


def worst(checks: Checks) -> Record:
    """How many were checked, the largest error as a share of its limit, and those beyond it."""
    count, most, failures = 0, 0.0, []
    for what, error, limit in checks:
        try:
            share = error() / limit
        except Exception as raised:  # an error in one shape must not hide the others
            failures.append(f"{what}: {type(raised).__name__}: {str(raised)[:200]}")
            continue
        finally:
            count += 1
        most = max(most, share) if share == share else float("inf")
        if not share <= 1:
            failures.append(f"{what}: {share:.3g} of its limit")
    return {"checked": count, "worst": most if most != float("inf") else 1e30, "failures": failures}


def off(found: Tensor, exact: Tensor) -> float:
    """Relative, in the Euclidean norm; where ``exact`` is."""
    return float((found.to(exact.device).double() - exact).norm() / exact.norm().clamp_min(1e-300))


def graph(machine: Machine) -> Record:
    """A captured lincomb follows its weights: a replay reads them where they lie."""
    module = torch.get_device_module(machine.device)
    make = getattr(module, "CUDAGraph", None) or getattr(module, "NPUGraph", None)
    if machine.backend.device_type == "cpu" or make is None:
        raise Absent("this device captures no graphs")

    def capture(act: Callable[[], Any]) -> tuple[Any, Any]:
        machine.backend.synchronize()
        captured, before = make(), torch.accelerator.current_stream()
        try:
            with module.graph(captured):
                return captured, act()
        finally:  # one that could not begin leaves its own stream behind
            torch.accelerator.set_stream(before)

    x = torch.zeros(1, device=machine.device)
    try:  # what the device cannot do is no fault of the primitive
        one, _ = capture(lambda: x.add_(1))
    except RuntimeError as error:
        raise Absent(f"this device captures no graphs ({str(error).splitlines()[0]})") from error
    one.replay()
    if (found := float(x)) != 1:
        raise Absent(f"this device does not replay graphs: a captured addition of 1 to 0 gives {found}")
    xs = [machine.rand(1, 4608, 3072, dtype=torch.bfloat16, seed=k) for k in range(3)]
    weights = torch.tensor([1.0, 2.0, -1.0], device=machine.device)
    machine.backend.lincomb(xs, weights)
    captured, out = capture(lambda: machine.backend.lincomb(xs, weights))

    def error(values: list[float]) -> float:
        weights.copy_(torch.tensor(values))
        captured.replay()
        machine.backend.synchronize()
        terms = [w * machine.exact(x) for w, x in zip(values, xs, strict=True)]
        return off(out, torch.stack(terms).sum(0))

    sets = ([1.0, 2.0, -1.0], [0.5, 0.0, 0.25], [-3.0, 1.0, 1.0])
    return worst((f"weights {values}", lambda values=values: error(values), REPLAYED) for values in sets)


def offload(machine: Machine) -> Record:
    """The same bits come back, also if the tensor is gone; and copies run beside arithmetic."""
    backend = machine.backend
    shape = (1 if machine.rehearsal else 16, 4099, 2048)
    x = machine.rand(*shape, dtype=torch.bfloat16)
    before, failures = x.clone(), []
    parked = backend.offload(x)
    backend.synchronize()
    x.zero_()
    if not torch.equal(backend.fetch(parked), before):
        failures.append("other bits came back")
    parked = backend.offload(before * 1)  # nobody but the copy holds it
    machine.rand(*shape, dtype=torch.bfloat16, seed=1)  # would be written to its memory, if that were free by now
    if not torch.equal(backend.fetch(parked), before):
        failures.append("a tensor that was let go came back otherwise")
    found: Record = {"checked": 2, "failures": failures, "bytes": before.nbytes}
    if not backend.asynchronous or machine.rehearsal:  # there is nothing to hide behind
        return found
    a = machine.rand(8192, 8192, dtype=torch.bfloat16)

    def work() -> None:
        for _ in range(20):
            torch.mm(a, a)

    def timed(*acts: Callable[[], Any]) -> float:
        taken = []
        for _ in range(5):
            first = machine.mark()
            kept = [act() for act in acts]
            backend.synchronize()  # the side stream too, before the last mark
            last = machine.mark()
            backend.synchronize()
            taken.append(machine.ms(first, last))
            del kept
        return sorted(taken)[2]

    def move() -> Any:
        return backend.offload(before)

    work()
    move()
    backend.synchronize()
    alone, copy, both = timed(work), timed(move), timed(move, work)
    hidden = (alone + copy - both) / min(alone, copy)
    if hidden < HIDDEN:
        failures.append(f"{hidden:.0%} of the shorter of copy and arithmetic is hidden, less than {HIDDEN:.0%}")
    return {**found, "arithmetic_ms": alone, "copy_ms": copy, "both_ms": both, "hidden": hidden}


def memory(machine: Machine) -> Record:
    """The counters see a tensor come and go."""
    backend, size = machine.backend, 2**26
    if backend.device_type == "cpu":
        raise Absent("the host's figures are of the whole process")
    machine.release()
    backend.reset_peak()
    before = backend.memory()
    x = torch.empty(size, dtype=torch.uint8, device=machine.device)
    during = backend.memory()
    del x
    after, failures = backend.memory(), []
    seen = during.allocated - before.allocated, during.peak - before.allocated, after.peak - after.allocated
    if not all(size <= bytes_ <= size + ROUNDED for bytes_ in seen):
        failures.append(f"{size} bytes were allocated; {before}, {during}, {after}")
    if not 0 < after.free <= after.total:
        failures.append(f"free {after.free} of {after.total}")
    return {"checked": 2, "failures": failures, "total": after.total}


def suite(machine: Machine, *paths: str) -> Record:
    """The repository's own tests of ``paths``, told to take the device in."""
    if machine.rehearsal:
        raise Absent("not in a rehearsal")
    command = ["-m", "pytest", *paths, "-p", "no:cacheprovider", "-p", "no:benchmark", "--tb=short"]
    command += ["-m", ""]  # whole products, no samples
    if find_spec("xdist") is not None:
        command += ["-n", str(min(8, max(1, (os.cpu_count() or 2) // 2)))]  # all of them on one device
    how, lines = processes.run(command, 240, C4D_TEST_DEVICE="1", OMP_NUM_THREADS="1")
    failures = [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
    if how and not failures:
        failures = [f"pytest ended with {how}: {lines[-1][:200]}"]
    return {"checked": 1, "failures": failures[:20], "failed": len(failures), "said": lines[-1][:200]}
