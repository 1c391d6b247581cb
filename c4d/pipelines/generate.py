"""One clip from one request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from c4d.pipelines.errors import GenerationError, InputError
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


@contextmanager
def as_one(pipe: Any, request: Request) -> Iterator[None]:
    """Whether a pipeline takes several images for one picture, and what it makes of an argument without an option, its
    signature does not tell; its error is said so."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        count, named = len(request.files().get("image", ())), ", ".join(each.name for each in request.named())
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if count > 1:
            what, way = f"{count} images", "give one --image"
        elif named and not isinstance(error, RuntimeError):  # pipelines check their arguments by the other two
            what, way = f"--argument {named}", "leave it out"
        else:
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"{type(pipe).__name__} makes nothing of {what} ({said}); {way}") from error


class Step(NamedTuple):
    """A denoising step that is done: its number from 1, of how many, and whether a forward of it was computed.

    ``of`` is None where the pipeline does not say it; ``computed`` is False if all forwards of the step were forecast.
    ``label``: of the clip; ``timelines``: what its forwards did so far, as in a report, of an uncached clip nothing.
    """

    number: int
    of: int | None
    computed: bool
    label: str = ""
    timelines: Mapping[str, str] = {}


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
    stepped: Callable[[Step], None] | None = None,
) -> Clip:
    """Runs ``pipe`` once, cached by ``method`` or (None) as it is.

    Args:
        progress: show one bar over the steps on stderr, under the name ``label``; the pipeline's own stays off.
        history_dtype, history_on, ranks: as in :func:`c4d.cached`.
        stepped: called after each denoising step. What it raises ends the generation, which then holds nothing. A
            pipeline without a callback (DiT) has no steps to tell of.

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
    steps, seen = effective(pipe, request).get("num_inference_steps"), 0
    with tqdm(total=steps, desc=label or None, unit="step", file=sys.stderr, disable=not progress, leave=False) as bar:

        def after_step(_pipe: Any, index: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            nonlocal seen
            bar.total = getattr(pipe, "num_timesteps", steps)  # second-order samplers make more forwards than steps
            if session is not None and progress:
                trace = session.trace
                computed = sum(entry.computed for entry in trace)
                bar.set_postfix(computed=computed, reused=len(trace) - computed, refresh=False)
            bar.update()
            if index + 1 >= (bar.total or 0):
                watch.denoised()
            if stepped is not None:
                trace = session.trace if session is not None else ()
                fresh, seen = trace[seen:], len(trace)
                computed = session is None or any(entry.computed for entry in fresh)
                stepped(Step(index + 1, bar.total, computed, label, timeline(trace) if trace else {}))
            return values

        # A pipeline without the callback (DiT) has no bar, and its last step counts as decoding's beginning.
        told = {"callback_on_step_end": after_step} if "callback_on_step_end" in parameters_of(pipe) else {}
        calls = None if session is None else lambda: [entry.computed for entry in session.trace]
        watch = Stopwatch(pipe, backend, alone=ranks is None, told=calls)
        with watch, session or nullcontext(), as_one(pipe, request):
            output = pipe(
                **arguments,
                generator=backend.generator(request.seed),
                output_type="pt",
                **told,
            )
    if len(request.files().get("image", ())) > 1 and len(getattr(output, "images", [0])) > 1:
        raise InputError(f"{type(pipe).__name__} makes a picture of each --image: give one")
    frames = output.frames[0] if hasattr(output, "frames") else output.images[:1]
    frames = frames.float().cpu()
    if bad := int((~frames.isfinite()).sum()):
        raise GenerationError(
            f"{bad} of {frames.numel()} pixel values of the {'cached' if session else 'uncached'} clip are not finite; "
            "try --dtype float32, or a milder --cache"
        )
    return Clip(frames.clamp(0, 1), watch.seconds, watch.phases(), session.report() if session else None)
