"""A request against one pipeline: what its ``__call__`` takes, and the sizes that it would otherwise round silently."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.pipeline import class_of
from c4d.pipelines.errors import InputError
from c4d.pipelines.request import Request

# Argument of a diffusers pipeline -> (field of Request, option of the command line)
OPTIONS: Mapping[str, tuple[str, str]] = {
    "prompt": ("prompt", "--prompt"),
    "negative_prompt": ("negative_prompt", "--negative-prompt"),
    "image": ("image", "--image"),
    "height": ("height", "--height"),
    "width": ("width", "--width"),
    "num_frames": ("num_frames", "--frames"),
    "num_inference_steps": ("steps", "--steps"),
    "guidance_scale": ("guidance_scale", "--guidance-scale"),
    "max_sequence_length": ("max_sequence_length", "--max-sequence-length"),
}

CLASSES = "class_labels"


def call_arguments(pipe: Any, request: Request) -> dict[str, Any]:
    """Keyword arguments for ``pipe(...)``: those that the request gives, the image opened.

    Raises :class:`InputError` for an option that this pipeline does not take or would ignore, one that it needs and
    did not get, for a size that it would round, and for text that it would cut.
    """
    name, parameters = type(pipe).__name__, parameters_of(pipe)
    options = options_of(parameters)
    fields = {argument: getattr(request, field) for argument, (field, _) in options.items()}
    given = {argument: value for argument, value in fields.items() if value is not None}
    if refused := [options[argument][1] for argument in given if argument not in parameters]:
        taken = ", ".join(option for argument, (_, option) in options.items() if argument in parameters)
        raise InputError(f"{name} takes no {' and no '.join(refused)}; of the options for a clip it takes {taken}")
    free = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [
        p.name for p in parameters.values() if p.default is p.empty and p.name not in given and p.kind not in free
    ]
    if other := [argument for argument in needed if argument not in options]:
        raise InputError(
            f"{name} also needs {', '.join(other)}, which no option gives; call it from Python inside c4d.cached(...)"
        )
    if needed:
        raise InputError(f"{name} needs {', '.join(options[argument][1] for argument in needed)}")
    values = effective(pipe, request)
    _check_negative_prompt(name, parameters, values)
    _check_guidance(pipe, name, parameters, request)
    _check_size(pipe, name, values)
    _check_length(pipe, name, values)
    if request.image is not None:
        given["image"] = request.picture()
    if CLASSES in given:
        given[CLASSES] = [_class_of(pipe, request.prompt)]
    return given


def options_of(parameters: Mapping[str, inspect.Parameter]) -> Mapping[str, tuple[str, str]]:
    """:data:`OPTIONS`; where a pipeline takes classes and no prompt, the prompt is the name of the class."""
    if CLASSES not in parameters or "prompt" in parameters:
        return OPTIONS
    return {CLASSES if argument == "prompt" else argument: option for argument, option in OPTIONS.items()}


def _class_of(pipe: Any, prompt: str) -> int:
    try:
        return class_of(pipe, prompt)
    except CalibrationError as error:
        raise InputError(str(error)) from error


def effective(pipe: Any, request: Request) -> dict[str, Any]:
    """Every option of :data:`OPTIONS` that the pipeline takes, with the value that it will use."""
    parameters = parameters_of(pipe)
    values = {}
    for taken, given in zip(options_of(parameters), OPTIONS, strict=True):  # a class under the name of the prompt
        if taken in parameters:
            value = getattr(request, OPTIONS[given][0])
            values[given] = parameters[taken].default if value is None else value
    return values


def unknown_words(pipe: Any, prompt: str) -> list[str]:
    """The words that the pipeline's tokenizer has no entry for: the model cannot see them."""
    tokenizer = getattr(pipe, "tokenizer", None)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if tokenizer is None or unknown is None:
        return []
    words = dict.fromkeys(prompt.split())
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False).input_ids]


def parameters_of(pipe: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(pipe.__call__).parameters)


def _check_negative_prompt(name: str, parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> None:
    if values.get("negative_prompt") is None:
        return
    if "true_cfg_scale" in parameters and parameters["true_cfg_scale"].default <= 1:
        raise InputError(
            f"{name} ignores --negative-prompt unless true_cfg_scale is above 1, which no option gives; call it from "
            "Python inside c4d.cached(...)"
        )
    scale = values.get("guidance_scale")
    if scale is not None and scale <= 1:
        raise InputError(
            f"--negative-prompt has no effect with guidance scale {scale:g}: {name} guides above 1; raise "
            "--guidance-scale or drop the negative prompt"
        )


def _check_guidance(pipe: Any, name: str, parameters: Mapping[str, inspect.Parameter], request: Request) -> None:
    """Where a pipeline knows both scales, ``guidance_scale`` is what a model has learned, if it has."""
    config = getattr(getattr(pipe, "transformer", None), "config", {})
    if (
        request.guidance_scale is not None
        and "true_cfg_scale" in parameters
        and not config.get("guidance_embeds", True)
    ):
        raise InputError(
            f"{name} ignores --guidance-scale, which this model has not learned; it guides by true_cfg_scale, "
            f"{parameters['true_cfg_scale'].default:g} with a negative prompt, which no option gives; drop it, or call "
            "it from Python inside c4d.cached(...)"
        )


def _check_size(pipe: Any, name: str, values: Mapping[str, Any]) -> None:
    """Pipelines round what does not fit and only log it; the user gets what was asked for, or is told."""
    transformer = getattr(pipe, "transformer", None) or getattr(pipe, "transformer_2", None)
    config = getattr(transformer, "config", {})
    # Pipelines of pictures have one factor, those of videos two.
    spatial = getattr(pipe, "vae_scale_factor_spatial", None) or getattr(pipe, "vae_scale_factor", None)
    temporal = getattr(pipe, "vae_scale_factor_temporal", None)
    patch = config.get("patch_size")
    # One number an axis, of three (Wan) or two (HunyuanImage), or one number for height and width.
    sizes = tuple(patch) if isinstance(patch, (list, tuple)) else (patch, patch)
    patches = (config.get("patch_size_t", 1), *sizes)[-3:]
    limit = config.get("rope_max_seq_len")
    for axis, size, factor, cells in (
        ("height", values.get("height"), spatial, patches[1]),
        ("width", values.get("width"), spatial, patches[2]),
    ):
        if size is None or factor is None or cells is None:
            continue
        multiple = math.lcm(factor * cells, 16)  # all families also insist on 16, whatever their factors are
        if size % multiple:
            raise InputError(f"{axis} {size} does not fit {name}: {_nearest(size, 0, multiple)}")
        _check_limit(axis, size, limit, factor * cells * limit if limit else 0, name)
    frames = values.get("num_frames")
    if frames is not None and temporal is not None:
        if (frames - 1) % temporal:
            raise InputError(f"{frames} frames do not fit {name}: {_nearest(frames, 1, temporal)}")
        _check_limit("frames", frames, limit, ((patches[0] or 1) * limit - 1) * temporal + 1 if limit else 0, name)


def _check_length(pipe: Any, name: str, values: Mapping[str, Any]) -> None:
    """Pipelines cut what is too long and only log it."""
    limit = values.get("max_sequence_length")
    if not isinstance(limit, int):
        return
    # The limit is that of the text encoder that reads so much; one beside it for a summary (CLIP) always cuts.
    held = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    able = [each for each in held if each is not None and each.model_max_length >= limit]
    if not able:
        return
    tokenizer = able[0]
    for argument in ("prompt", "negative_prompt"):
        if text := values.get(argument):
            tokens = len(tokenizer(text, verbose=False).input_ids)
            if tokens > limit:
                raise InputError(f"{OPTIONS[argument][1]} has {tokens} tokens, {name} reads {limit}; shorten it")


def _nearest(value: int, offset: int, multiple: int) -> str:
    below = (value - offset) // multiple * multiple + offset
    near = [str(v) for v in (below, below + multiple) if v > 0]
    rule = f"{multiple}k + {offset}" if offset else f"multiples of {multiple}"
    return f"allowed are {rule}, the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"


def _check_limit(axis: str, value: int, limit: int | None, most: int, name: str) -> None:
    if limit and value > most:
        raise InputError(
            f"{axis} {value} is beyond what this {name} can place: its model takes at most {most}; give --{axis}"
        )
