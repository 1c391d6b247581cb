"""The public entry: ``with c4d.cached(pipe, method) as session``."""

from __future__ import annotations

import reprlib
from typing import Any

import torch
from torch import nn

from c4d.backends import Backend, Unsupported, select
from c4d.backends.kernels import names
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
        TypeError: a transformer without a spec (the message lists the supported ones), no transformer at all, or an
            argument of the wrong kind.
        ValueError: a method that is unknown or would hook nothing on this model; an unknown backend or place; a
            ``history_dtype`` that the backend does not compute in.
        BackendUnavailable: a backend asked for by name that cannot run here.
    """
    _check_kinds(
        (method, (str, CacheMethod), "method", "text such as 'fora:interval=3', or a method from c4d.methods"),
        (spec, (ModelSpec, type(None)), "spec", "a c4d.ModelSpec"),
        (backend, (str, Backend), "backend", "a name from c4d doctor"),
        (history_dtype, (torch.dtype, type(None)), "history_dtype", "a torch dtype, such as torch.bfloat16"),
    )
    chosen, storage = select(backend) if isinstance(backend, str) else backend, Storage(history_dtype, history_on)
    if history_dtype is not None and history_dtype not in chosen.dtypes:
        able = names(chosen.dtypes)
        raise Unsupported(f"history_dtype is {history_dtype}; backend {chosen.name!r} computes in {able}")
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
        backend=chosen,
        storage=storage,
    )


def _check_kinds(*arguments: tuple[Any, tuple[type, ...], str, str]) -> None:
    for value, kinds, name, wanted in arguments:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} is {' '.join(reprlib.repr(value).split())}; give {wanted}")


def _transformers_of(pipe: Any) -> list[nn.Module]:
    """High-noise expert first, as the pipelines name them."""
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    modules = [module for module in found if isinstance(module, nn.Module)]
    if not modules:
        raise TypeError(
            f"{type(pipe).__name__} has no transformer: give a diffusers pipeline with a diffusion transformer (not a "
            "U-Net), or the transformer itself"
        )
    for module in modules:
        if hasattr(module, "_orig_mod"):
            raise TypeError(
                f"a transformer of this {type(pipe).__name__} is compiled as a whole (torch.compile): compile its "
                "blocks instead, transformer.compile_repeated_blocks(fullgraph=True)"
            )
    return modules
