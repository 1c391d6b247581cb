"""All weights on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, device_of, mode, modules_of, moved_already
from c4d.memory_modes.weights import size_of


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.to(device_of(backend))


def _holds(pipe: Any, called: Sequence[str], backend: Backend) -> int:
    return size_of(*modules_of(pipe).values())


@mode("full", Kind.PLACE, "bit for bit")
def full() -> Part:
    """All weights stay on the device: the fastest, and what takes most memory."""
    return Part(_apply, lambda pipe, backend: moved_already(pipe), holds=_holds)
