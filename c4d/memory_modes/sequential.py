"""Every layer on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, device_of, mode, modules_of, needs_device
from c4d.memory_modes.weights import deepest, size_of


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.enable_sequential_cpu_offload(device=device_of(backend))


def _holds(pipe: Any, called: Sequence[str], backend: Backend) -> int:
    """Buffers stay where a component has no parameters of its own, and are counted everywhere."""
    parts = modules_of(pipe)
    fixed = [parts[name] for name in pipe._exclude_from_cpu_offload if name in parts]
    buffers = sum(x.nbytes for part in parts.values() if part not in fixed for x in part.buffers())
    running = parts[called[-1]]
    return size_of(*fixed) + buffers + (0 if running in fixed else deepest(running, buffers=False))


@mode("sequential", Kind.PLACE, "bit for bit")
def sequential() -> Part:
    """Each layer is on the device while it runs: diffusers' ``enable_sequential_cpu_offload``.

    The least memory, and the slowest: all weights are copied in every computed forward, and the device waits for them.
    """
    return Part(
        _apply, needs_device, apart=("int8",), holds=_holds
    )  # accelerate rebuilds parameters, and loses torchao's scales
