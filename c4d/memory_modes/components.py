"""Whole components in turns."""

from __future__ import annotations

from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, device_of, mode, needs_device


def _lacking(pipe: Any, backend: Backend) -> str | None:
    if getattr(pipe, "model_cpu_offload_seq", "unknown to a skeleton") is None:
        return f"{type(pipe).__name__} does not say in which order its components run: take groups or sequential"
    return needs_device(pipe, backend)


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.enable_model_cpu_offload(device=device_of(backend))


@mode("components", Kind.PLACE, "bit for bit")
def components() -> Part:
    """Each component is on the device while it runs, else on the host: diffusers' ``enable_model_cpu_offload``.

    The device holds the largest component; each is moved once a request, so that a long request hardly notices.
    """
    return Part(_apply, _lacking)
