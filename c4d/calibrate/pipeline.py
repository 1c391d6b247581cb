"""A pipeline's samplings: what ``c4d.tune(pipe, prompts=[…])`` runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError

ASKED_BY = ("prompt", "class_labels")  # the argument that says what to show, by what a pipeline calls it
MOST_LABELS = 30  # names of classes in one message


def asked(pipe: Any, prompts: Sequence[str]) -> tuple[str, list[Any]]:
    """The argument of the pipeline that takes ``prompts``, and what it takes: texts, or the numbers of classes.

    Raises :class:`CalibrationError` for a pipeline that takes neither, and for a class that it does not know.
    """
    parameters = inspect.signature(pipe.__call__).parameters
    name = next((name for name in ASKED_BY if name in parameters), None)
    if name is None:
        raise CalibrationError(
            f"{type(pipe).__name__} takes no prompt: sample in a function of your own, c4d.tune(pipe, generate, "
            "samples=…, scheduler=pipe.scheduler)"
        )
    if name == "prompt":
        return name, list(prompts)
    return name, [class_of(pipe, prompt) for prompt in prompts]


def class_of(pipe: Any, prompt: str) -> int:
    """The class with the name ``prompt``, or whose number it is; else :class:`CalibrationError`."""
    labels: Mapping[str, int] = getattr(pipe, "labels", None) or {}
    wanted = prompt.strip()
    if wanted in labels:
        return labels[wanted]
    if wanted.isdecimal() and int(wanted) in (labels.values() or range(pipe.transformer.config.num_embeds_ada_norm)):
        return int(wanted)
    known = ", ".join([*labels][:MOST_LABELS]) + (", ..." if len(labels) > MOST_LABELS else "")
    ways = f"its {len(labels)} classes are {known}" if labels else "its classes have no names; give a number"
    raise CalibrationError(f"prompt {prompt!r} is no class of this {type(pipe).__name__}: {ways}")


def besides(call: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipeline is called with, without what says what to show."""
    return {name: value for name, value in call.items() if name not in ASKED_BY}


def sampling(
    pipe: Any, prompts: Sequence[str], *, seed: int, batch: int, call: Mapping[str, Any]
) -> tuple[Callable[[int], Any], int]:
    """``generate(i)`` for the i-th batch of prompts, to latents, and how many batches there are.

    Each prompt has noise of its own, of the seed ``seed`` and its number, made on the CPU: the same on every device
    and in every batch.
    """
    name, values = asked(pipe, prompts)
    groups = [range(start, min(start + batch, len(values))) for start in range(0, len(values), batch)]
    more = dict(call)
    if "output_type" in inspect.signature(pipe.__call__).parameters:
        more.setdefault("output_type", "latent")

    def generate(i: int) -> Any:
        chosen = groups[i]
        generators = [torch.Generator().manual_seed(seed + k) for k in chosen]
        given = dict(more)
        if isinstance(negative := given.get("negative_prompt"), str):
            given["negative_prompt"] = [negative] * len(chosen)
        return pipe(**{name: [values[k] for k in chosen]}, generator=generators, **given)

    return generate, len(groups)


def watched(pipe: Any, make: Callable[[], Any], saw: Callable[[Tensor, Tensor], None]) -> None:
    """Has ``saw(model output, next sample)`` called at each step of the pipeline's scheduler while ``make()`` runs."""
    scheduler, calls = pipe.scheduler, 0
    own, step = "step" in vars(scheduler), scheduler.step

    def seen(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        out = step(*args, **kwargs)
        saw(args[0] if args else kwargs["model_output"], out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    scheduler.step = seen
    try:
        make()
    finally:
        if own:
            scheduler.step = step
        else:
            del scheduler.step
    if not calls:
        raise CalibrationError(f"the sampling did not call {type(scheduler).__name__}.step: its samples are not known")


def last_latents(pipe: Any, make: Callable[[], Any]) -> Tensor:
    """What the last step of the pipeline's scheduler leaves, fp32 on the host, of a sampling that ``make()`` makes."""
    last = list[Tensor]()

    def keep(output: Tensor, sample: Tensor) -> None:
        last[:] = [sample]

    watched(pipe, make, keep)
    return last[0].detach().float().cpu()


def stepped_with(pipe: Any, make: Callable[[], Any]) -> list[Tensor]:
    """The model outputs that the pipeline's scheduler steps with, fp32 on the host."""
    found = list[Tensor]()

    def keep(output: Tensor, sample: Tensor) -> None:
        found.append(output.detach().to("cpu", torch.float32, copy=True))

    watched(pipe, make, keep)
    return found
