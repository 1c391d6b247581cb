"""``--cache-memory`` and ``--device-memory``: what is chosen for a job before its weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from c4d.backends import Backend
from c4d.backends.kernels import names
from c4d.cli.options import Generating
from c4d.memory_modes.mode import modules_of
from c4d.parallel import Degrees
from c4d.pipelines import (
    Files,
    InputError,
    Request,
    Settings,
    call_arguments,
    parse_dtype,
    parse_history_dtype,
    skeleton,
)
from c4d.pipelines.load import dtypes
from c4d.pipelines.quiet import quiet
from c4d.plan.budget import Choice, Given, Limits, Needs, choose
from c4d.plan.model import cast


def budgeted(
    options: Generating, settings: Settings, requests: Sequence[Request], degrees: Degrees, *, backend: Backend
) -> tuple[Settings, list[str]]:
    """``settings`` with the memory mode, the place and the dtype of histories that ``options`` leave open and a budget
    chooses, and what is to be said of it.

    Raises :class:`InputError` where nothing fits, with the numbers, and for a pipeline that cannot be planned.
    """
    limits = Limits(options.device_memory, options.cache_memory)
    if limits == Limits():
        return settings, []
    if limits.cache is not None and settings.cache is None:
        raise InputError("--cache-memory needs a method: add --cache TEXT (c4d methods lists them)")
    pipe = planned(options, settings)
    request = max(requests, key=lambda each: len(each.prompt))  # some pipelines take as many tokens as it has
    dtype = options.history_dtype and parse_history_dtype(options.history_dtype, backend)
    given = Given(options.memory, dtype or None, options.history_on)

    def refused(memory: str) -> str | None:
        try:
            replace(settings, memory=memory)
        except InputError as error:
            return str(error)
        return None

    try:
        with quiet(bars=False, remarks=False):
            call = call_arguments(pipe, request)
            needs = Needs(pipe, call, settings.cache, backend=backend, degrees=degrees)
            choice: Choice = choose(needs, limits, given, refused=refused)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    kept = choice.history_dtype and names([choice.history_dtype])
    chosen = replace(settings, history_dtype=kept or None, history_on=choice.history_on)
    return replace(chosen, memory=choice.memory or settings.memory), list(choice.said)


def planned(options: Generating, settings: Settings) -> Any:
    """The pipeline without its weights' numbers, of the dtypes that they will have.

    Raises :class:`InputError` for one that only its weights make.
    """
    pipe = skeleton(options.model, allow_pickle=options.allow_pickle, whole=True, files=options.parts_of(Files))
    if not callable(pipe):
        raise InputError(
            f"model {options.model!r} cannot be planned before its weights are there: leave --device-memory and "
            "--cache-memory out, and choose --memory and --history-on by hand (docs/memory.md)"
        )
    weights = dtypes(type(getattr(pipe, "vae", None)).__name__, parse_dtype(settings.dtype))
    for name, part in modules_of(pipe).items():
        dtype = weights.get(name, weights["default"])
        if part.__module__.startswith("transformers.") and dtype is not torch.float16:  # what it keeps of others
            nn.Module.to(part, dtype)
        else:
            cast(part, dtype)
    return pipe
