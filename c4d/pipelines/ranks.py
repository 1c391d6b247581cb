"""How the ranks of a job share a pipeline, before its weights are loaded."""

from __future__ import annotations

from typing import Any

import torch

import c4d
from c4d.backends import Backend, UnsupportedError
from c4d.backends.kernels import OWN
from c4d.core.caching.rules import CacheMethod
from c4d.parallel import Degrees, Job, SequenceParallel
from c4d.parallel.session import partial_kernels
from c4d.pipelines.arguments import effective, parameters_of, true_scale
from c4d.pipelines.errors import InputError
from c4d.pipelines.modes import memory_mode
from c4d.pipelines.request import Request
from c4d.pipelines.skeleton import TRANSFORMERS


def check_ranks(
    pipe: Any,
    how: SequenceParallel,
    job: Job,
    request: Request,
    kernel: str,
    dtype: torch.dtype,
    *,
    backend: Backend,
    method: CacheMethod | None = None,
    memory: str = "full",
) -> Degrees:
    """How the ranks of ``job`` are divided for this pipeline; :class:`InputError` if they cannot be as asked for.

    Under a ``method`` of guidance both branches are of all ranks. ``memory``: the mode, which may divide weights.
    """
    spares = method if method is not None and method.guidance is not None else None
    if spares is not None and how.cfg == 2:
        raise InputError(f"--cfg 2 does not go with {spares.name!r}, which spares one of the two: use --cfg 1")
    session = c4d.attention(pipe, backend=backend)
    session.unused = None  # it is only asked
    try:
        calls = branches(pipe, request) if callable(pipe) else how.cfg or 1  # else only the whole pipeline can tell
        calls = 1 if spares is not None else calls
        degrees = how.degrees(job.world, node=job.node, heads=session.heads, branches=calls)
    except ValueError as error:
        raise InputError(str(error)) from error
    if degrees.sequence > 1 and kernel == OWN:
        raise InputError("--attention own sees a part of the tokens alone on several ranks; name a kernel, or auto")
    try:
        partial_kernels(session, backend, kernel, degrees, dtype)
    except UnsupportedError as error:
        raise InputError(f"--attention {kernel!r} on several ranks: {error}") from error
    lacking = [fitting.spec.transformer for fitting in session.fittings if fitting.spec.sharding is None]
    if degrees.sequence > 1 and lacking:
        raise InputError(
            f"{lacking[0]} cannot be spread over ranks: its spec does not say how (docs/adding_a_model.md)"
        )
    over = memory_mode(memory).over
    if (refusal := degrees.refusal(range(job.world if over is None else over))) is not None:
        raise InputError(f"--memory: {refusal}")
    return degrees


def branches(pipe: Any, request: Request) -> int:
    """How often a step calls the transformer: twice with guidance that the model has not learned to do alone.

    Where a pipeline knows both, ``guidance_scale`` is what the model learned, ``true_cfg_scale`` what takes two calls
    with a negative prompt; requests have no word for that one, so it is the pipeline's own. Or a guider tells.
    """
    if (guider := getattr(pipe, "guider", None)) is not None:
        return int(guider.num_conditions)
    if (true := true_scale(parameters_of(pipe), request)) is not None:
        return 2 if true > 1 and request.negative_prompt is not None else 1
    scale = effective(pipe, request).get("guidance_scale")
    transformer = next(x for name in TRANSFORMERS if (x := getattr(pipe, name, None)) is not None)
    learned = getattr(transformer.config, "guidance_embeds", False)
    return 2 if scale is not None and scale > 1 and not learned else 1
