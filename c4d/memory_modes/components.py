"""Whole components in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, device_of, mode, modules_of, needs_device
from c4d.memory_modes.weights import size_of


def _lacking(pipe: Any, backend: Backend) -> str | None:
    if getattr(pipe, "model_cpu_offload_seq", "unknown to a skeleton") is None:
        return f"{type(pipe).__name__} does not say in which order its components run: take groups or sequential"
    return needs_device(pipe, backend)


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.enable_model_cpu_offload(device=device_of(backend))


def _holds(pipe: Any, called: Sequence[str], backend: Backend) -> int:
    """A component stays until the one behind it in the pipeline's order is called; others of that order stay on."""
    parts = modules_of(pipe)
    order = [name for name in pipe.model_cpu_offload_seq.split("->") if name in parts]
    there = {name for name in pipe._exclude_from_cpu_offload if name in parts}
    for name in called:
        if name in order[1:]:
            there.discard(order[order.index(name) - 1])
        there.add(name)
    return size_of(*(parts[name] for name in there))


@mode("components", Kind.PLACE, "bit for bit")
def components() -> Part:
    """Each component is on the device while it runs, else on the host: diffusers' ``enable_model_cpu_offload``.

    The device holds the largest component; each is moved once a request, so that a long request hardly notices.
    """
    return Part(_apply, _lacking, holds=_holds)
