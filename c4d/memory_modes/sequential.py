"""Every layer on its own."""

from __future__ import annotations

from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, device_of, mode, needs_device


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.enable_sequential_cpu_offload(device=device_of(backend))


@mode("sequential", Kind.PLACE, "bit for bit")
def sequential() -> Part:
    """Each layer is on the device while it runs: diffusers' ``enable_sequential_cpu_offload``.

    The least memory, and the slowest: all weights are copied in every computed forward, and the device waits for them.
    """
    return Part(_apply, needs_device, apart=("int8",))  # accelerate rebuilds parameters, and loses torchao's scales
