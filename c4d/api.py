"""The public entry: ``with c4d.cached(pipe, method) as session``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from c4d.backends import Backend, select
from c4d.core.clock import Clock, NoClock, SchedulerClock
from c4d.core.grammar import parse
from c4d.core.history import Storage
from c4d.core.session import Session
from c4d.core.types import CacheMethod, ModelSpec
from c4d.models import spec_for


def cached(
    model: Any,
    method: CacheMethod | str,
    *,
    scheduler: Any = None,
    spec: ModelSpec | None = None,
    backend: Backend | str = "auto",
    history_dtype: torch.dtype | None = None,
    history_on: str = "device",
) -> Session:
    """Caches ``model`` with ``method`` inside a ``with`` block; outside it the model is exactly what it was.

    Args:
        model: a diffusers pipeline (all of its transformers are attached, its scheduler is followed), or a bare
            transformer, which then needs ``scheduler`` or ``session.begin(timesteps)``.
        method: a :class:`CacheMethod` from ``c4d.methods``, or its text, such as ``"taylorseer:interval=5,order=1"``.
        scheduler: the diffusers scheduler that drives a loop of your own over a bare transformer.
        spec: a description of a transformer that c4d does not know.
        backend: a name from ``c4d doctor`` or an object; ``"auto"`` takes the best one that can run here.
        history_dtype: what stored features are kept in (``None``: as computed).
        history_on: ``"device"``, or ``"host"`` to keep stored features in host memory.

    Raises:
        TypeError: a transformer without a spec (the message lists the supported ones), or no transformer at all.
        ValueError: a method that is unknown or would hook nothing on this model.
        BackendUnavailable: a backend asked for by name that cannot run here.
    """
    if isinstance(model, nn.Module):
        if hasattr(model, "_orig_mod"):
            raise TypeError(
                "this transformer is compiled as a whole (torch.compile): pass the original and compile its blocks, "
                "transformer.compile_repeated_blocks(fullgraph=True)"
            )
        transformers = [model]
        clock: Clock = NoClock() if scheduler is None else SchedulerClock(lambda: scheduler)
    else:
        transformers = _transformers_of(model)
        clock = SchedulerClock(lambda: model.scheduler if scheduler is None else scheduler)
    return Session(
        [(transformer, spec or spec_for(transformer)) for transformer in transformers],
        parse(method) if isinstance(method, str) else method,
        clock=clock,
        backend=select(backend) if isinstance(backend, str) else backend,
        storage=Storage(history_dtype, history_on),
    )


def _transformers_of(pipe: Any) -> list[nn.Module]:
    """High-noise expert first, as the pipelines name them."""
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    modules = [module for module in found if isinstance(module, nn.Module)]
    if not modules:
        raise TypeError(f"{type(pipe).__name__} has no transformer: c4d caches diffusion transformers, not U-Nets")
    for module in modules:
        if hasattr(module, "_orig_mod"):
            raise TypeError(
                f"a transformer of this {type(pipe).__name__} is compiled as a whole (torch.compile): compile its "
                "blocks instead, transformer.compile_repeated_blocks(fullgraph=True)"
            )
    return modules
