"""How a job takes less of the device's memory: ``--memory``, checked before weights are loaded, and done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.encoders import encode_all, lacking
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


def check_encoding(pipe: Any) -> None:
    """Raises :class:`InputError` for a skeleton of a pipeline whose text cannot be encoded beforehand."""
    if callable(pipe) and (reason := lacking(pipe, loaded=False)) is not None:
        raise InputError(f"--encode-first: {reason}; leave it out")


def encode_first(pipe: Any, calls: Sequence[Mapping[str, Any]], text: str, *, backend: Backend) -> str:
    """Puts ``pipe``, whose weights are on the host, where the memory mode ``text`` says, without its text encoders,
    which run for all ``calls`` before; a line about it."""
    mode = memory_mode(text)
    with _as_input_errors("--encode-first"):
        encode_all(pipe, calls, backend=backend, memory=mode)
    return f"text encoders: {len(calls)} prompt{'s' * (len(calls) != 1)} encoded beforehand, then given back"


@contextmanager
def _as_input_errors(option: str = "--memory") -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error
