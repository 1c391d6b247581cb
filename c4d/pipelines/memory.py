"""Running out of the device's memory, in words that help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from c4d.backends import Backend
from c4d.backends.kernels import names
from c4d.memory_modes.mode import on_host
from c4d.pipelines.load import parse_dtype
from c4d.pipelines.modes import memory_mode
from c4d.pipelines.settings import Settings


@contextmanager
def memory_explained(backend: Backend, settings: Settings) -> Iterator[None]:
    """A ``torch.OutOfMemoryError`` from within says what of this job to change, and what of the environment."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        reason = f"{asked[1]} more were needed" if asked else " ".join(str(error).split())
        advice = [*ways(backend, settings), *backend.advice()]
        raise torch.OutOfMemoryError(
            f"out of memory on {backend.hardware()}: {reason}; to try: {'; '.join(advice)}"
        ) from error


def ways(backend: Backend, settings: Settings) -> list[str]:
    """What of a job takes less memory if it is changed, the cheapest change first."""
    said = []
    if settings.cache is not None:
        if settings.cache.inside:
            said.append("a --cache method @blocks, which keeps one feature where this keeps one for each module")
        if settings.history_on == "device":
            said.append("--history-on host")
        if settings.history_dtype is None:
            said.append("--history-dtype int8")
    if backend.default_dtype.itemsize < parse_dtype(settings.dtype).itemsize:
        said.append(f"--dtype {names([backend.default_dtype])}")
    if memory_mode(settings.memory).plain:
        said.append("--memory float8+tiled" if on_host(backend) else "--memory groups+tiled (docs/memory.md)")
    return [*said, "a smaller --height, --width or --frames"]
