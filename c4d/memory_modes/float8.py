"""Weights stored in eight bits, floating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from c4d.backends import Backend
from c4d.core.integration.offload import hook_of
from c4d.core.integration.transformers import transformers_of
from c4d.memory_modes.mode import Kind, Part, device_of, mode
from c4d.memory_modes.weights import widest

STORED = torch.float8_e4m3fn


def _lacking(pipe: Any, backend: Backend) -> str | None:
    for part in transformers_of(pipe).values():
        if not hasattr(part, "enable_layerwise_casting"):
            return f"{type(part).__name__} is no model of diffusers, which casts the layers: leave float8 out"
        if any(hook_of(layer, "layerwise_casting") is not None for layer in part.modules()):
            return f"the weights of {type(part).__name__} are stored in another dtype already: leave float8 out"
    try:  # the device itself knows best
        torch.ones(1, device=device_of(backend), dtype=backend.default_dtype).to(STORED).to(backend.default_dtype)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        return f"{backend.hardware()} does not convert {STORED} ({reason}): take groups, or int8"
    return None


def _apply(pipe: Any, backend: Backend) -> None:
    part: Any
    for part in transformers_of(pipe).values():
        part.enable_layerwise_casting(storage_dtype=STORED, compute_dtype=part.dtype)


def _holds(pipe: Any, called: Sequence[str], backend: Backend) -> int:
    """The layer that runs is widened."""
    running: Any = transformers_of(pipe).get(called[-1])
    return 0 if running is None else widest(running, STORED, running.dtype)


@mode("float8", Kind.NUMBERS, "to the rounding of weights to 3 bits of mantissa")
def float8() -> Part:
    """The transformers' weights are kept in ``float8_e4m3fn``, and each layer's are widened while it runs.

    diffusers' ``enable_layerwise_casting``, which leaves norms and embeddings as they are. The computation keeps its
    dtype. It cannot be undone: the weights are rounded.
    """
    return Part(_apply, _lacking, holds=_holds)
