"""How a job takes less of the device's memory: ``--memory``, checked before weights are loaded, and done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.text import MemoryMode, parse_memory
from c4d.pipelines.errors import InputError


def memory_mode(text: str) -> MemoryMode:
    """The mode of that text; ``full`` is beside it if it does not say where weights are. Raises :class:`InputError`."""
    with _as_input_errors():
        mode = parse_memory(text)
        return mode if mode.places else parse_memory(f"full+{text}")


def check_memory(pipe: Any, text: str, *, backend: Backend) -> None:
    """Raises :class:`InputError` for a mode that is unknown, or that the device or ``pipe``, a skeleton, cannot do."""
    mode = memory_mode(text)
    with _as_input_errors():
        mode.check(pipe, backend, loaded=False)


def place(pipe: Any, text: str, *, backend: Backend) -> None:
    """Puts the weights of a loaded ``pipe`` where they belong. Raises :class:`InputError` as :func:`check_memory`."""
    mode = memory_mode(text)
    with _as_input_errors():
        mode.apply(pipe, backend)


@contextmanager
def _as_input_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"--memory: {error}") from error
