"""One clip from one request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import c4d
from c4d.backends import Backend
from c4d.core.caching.rules import CacheMethod
from c4d.core.runtime.report import timeline
from c4d.parallel.session import Parallel
from c4d.pipelines.arguments import call_arguments, effective, parameters_of
from c4d.pipelines.errors import GenerationError
from c4d.pipelines.phases import Stopwatch
from c4d.pipelines.request import Request


@dataclass(frozen=True)
class Clip:
    """``frames`` float32 [T, 3, H, W] in [0, 1] on the CPU; ``seconds`` wall time of the whole call of the pipeline.

    ``phases`` are the seconds of its parts, together ``seconds`` (:class:`c4d.pipelines.phases.Stopwatch`).
    ``report`` is the session's report (``to_dict()``, ``str()``), None for an uncached clip.
    """

    frames: Tensor
    seconds: float
    phases: Mapping[str, float]
    report: Any


class Stepped(NamedTuple):
    """A denoising step is done, ``done`` of ``total`` of the clip called ``label``.

    ``timelines``: what its forwards did so far, as in a report; empty for an uncached clip.
    """

    label: str
    done: int
    total: int
    timelines: Mapping[str, str]


def generate(
    pipe: Any,
    request: Request,
    *,
    method: CacheMethod | str | None,
    backend: Backend,
    progress: bool,
    history_dtype: torch.dtype | None = None,
    history_on: str = "device",
    ranks: Parallel | None = None,
    label: str = "",
    on_step: Callable[[Stepped], None] | None = None,
) -> Clip:
    """Runs ``pipe`` once, cached by ``method`` or (None) as it is.

    Args:
        progress: show one bar over the steps on stderr, under the name ``label``; the pipeline's own stays off.
        history_dtype, history_on, ranks: as in :func:`c4d.cached`.
        on_step: is told of each step, of a pipeline that tells of its steps (DiT's does not); what it raises ends the
            generation.

    Raises:
        InputError: the request does not fit this pipeline.
        GenerationError: the clip has non-finite pixels.
    """
    arguments = call_arguments(pipe, request)
    pipe.set_progress_bar_config(disable=True)
    session = None
    if method is not None:
        kept: dict[str, Any] = {"history_dtype": history_dtype, "history_on": history_on}
        session = c4d.cached(pipe, method, backend=backend, ranks=ranks, **kept)
    steps = effective(pipe, request).get("num_inference_steps")
    with tqdm(total=steps, desc=label or None, unit="step", file=sys.stderr, disable=not progress, leave=False) as bar:

        def after_step(_pipe: Any, index: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            bar.total = getattr(pipe, "num_timesteps", steps)  # second-order samplers make more forwards than steps
            if session is not None and progress:
                trace = session.trace
                computed = sum(entry.computed for entry in trace)
                bar.set_postfix(computed=computed, reused=len(trace) - computed, refresh=False)
            bar.update()
            if on_step is not None:
                done = timeline(session.trace) if session is not None else {}
                on_step(Stepped(label, index + 1, bar.total or index + 1, done))
            if index + 1 >= (bar.total or 0):
                watch.denoised()
            return values

        # A pipeline without the callback (DiT) has no bar, and its last step counts as decoding's beginning.
        told = {"callback_on_step_end": after_step} if "callback_on_step_end" in parameters_of(pipe) else {}
        calls = None if session is None else lambda: [entry.computed for entry in session.trace]
        watch = Stopwatch(pipe, backend, alone=ranks is None, told=calls)
        with watch, session or nullcontext():
            output = pipe(
                **arguments,
                generator=backend.generator(request.seed),
                output_type="pt",
                **told,
            )
    frames = output.frames[0] if hasattr(output, "frames") else output.images[:1]
    frames = frames.float().cpu()
    if bad := int((~frames.isfinite()).sum()):
        raise GenerationError(
            f"{bad} of {frames.numel()} pixel values of the {'cached' if session else 'uncached'} clip are not finite; "
            "try --dtype float32, or a milder --cache"
        )
    return Clip(frames.clamp(0, 1), watch.seconds, watch.phases(), session.report() if session else None)
