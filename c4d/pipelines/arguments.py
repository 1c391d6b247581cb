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
from c4d.pipelines.inputs import FRAMES, OF_SEVERAL, fit_films, frame_by_frame, is_file, opened
from c4d.pipelines.request import FILMS, Request

# Argument of a diffusers pipeline -> (field of Request, option of the command line). Of several for one field the first
# that a pipeline has is its.
OPTIONS: Mapping[str, tuple[str, str]] = {
    "prompt": ("prompt", "--prompt"),
    "negative_prompt": ("negative_prompt", "--negative-prompt"),
    "image": ("image", "--image"),
    "images": ("image", "--image"),
    "input_images": ("image", "--image"),
    "reference_images": ("image", "--image"),
    "last_image": ("last_image", "--last-image"),
    "video": ("video", "--video"),
    "mask_image": ("mask", "--mask"),
    "mask_video": ("mask", "--mask"),
    "mask": ("mask", "--mask"),
    "control_image": ("control", "--control"),
    "control_video": ("control", "--control"),
    "conditioning_frames": ("control", "--control"),
    "strength": ("strength", "--strength"),
    "height": ("height", "--height"),
    "width": ("width", "--width"),
    **dict.fromkeys(FRAMES, ("num_frames", "--frames")),
    "num_inference_steps": ("steps", "--steps"),
    "guidance_scale": ("guidance_scale", "--guidance-scale"),
    "max_sequence_length": ("max_sequence_length", "--max-sequence-length"),
}
CLASSES = "class_labels"
SCALE = "true_cfg_scale"  # of guidance, where guidance_scale is something that a model has learned


def call_arguments(pipe: Any, request: Request) -> dict[str, Any]:
    """Keyword arguments for ``pipe(...)``: those that the request gives, its files opened.

    Raises :class:`InputError` as :func:`check_request`, and for a film that cannot be read or does not fit.
    """
    name, parameters, given = type(pipe).__name__, parameters_of(pipe), check_request(pipe, request)
    for argument, option in options_of(parameters).items():
        if argument in given and is_file(option[0]):
            given[argument] = opened(name, argument, option, parameters, request)
    given.update({each.name: each.opened() for each in request.named()})
    if (frames := fit_films(given, parameters, request)) is not None:
        _check_frames(pipe, name, frames)
    if CLASSES in given:
        given[CLASSES] = [_class_of(pipe, request.prompt)]
    return given


def check_request(pipe: Any, request: Request) -> dict[str, Any]:
    """Argument of ``pipe`` -> what ``request`` says of it; files are names, and not read.

    Raises :class:`InputError` for an option that this pipeline does not take or would ignore, one that it needs and
    did not get, for a size that it would round, and for text that it would cut.
    """
    name, parameters = type(pipe).__name__, parameters_of(pipe)
    options = options_of(parameters)
    fields = {argument: getattr(request, field) for argument, (field, _) in options.items()}
    if request.files().keys() & FILMS and frame_by_frame(parameters) and FRAMES[0] not in parameters:
        fields.pop(FRAMES[0], None)  # of the film, see fit_films
    given = {argument: value for argument, value in fields.items() if value is not None}
    if refused := [options[argument][1] for argument in given if argument not in parameters]:
        taken = ", ".join(option for argument, (_, option) in options.items() if argument in parameters)
        raise InputError(f"{name} takes no {' and no '.join(refused)}; of the options for a clip it takes {taken}")
    for each in request.named():
        each.check(name, parameters, {argument: option for argument, (_, option) in options.items()})
        given[each.name] = each.value
    free = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [
        p.name for p in parameters.values() if p.default is p.empty and p.name not in given and p.kind not in free
    ]
    if other := [argument for argument in needed if argument not in options]:
        raise InputError(
            f"{name} also needs {', '.join(other)}: --argument {other[0]}=VALUE or =@FILE gives what is no tensor; "
            "else call it from Python inside c4d.cached(...)"
        )
    if needed:
        raise InputError(f"{name} needs {', '.join(options[argument][1] for argument in needed)}")
    values = effective(pipe, request)
    _check_negative_prompt(name, values, true_scale(parameters, request))
    _check_guidance(pipe, name, parameters, request)
    _check_start(name, parameters, request, values)
    _check_images(name, parameters, request)
    _check_size(pipe, name, values)
    _check_length(pipe, name, values)
    return given


def options_of(parameters: Mapping[str, inspect.Parameter]) -> dict[str, tuple[str, str]]:
    """:data:`OPTIONS` with one argument for each field: the first that is among ``parameters``, else the first of all.

    Where a pipeline takes classes and no prompt, the prompt is the name of the class.
    """
    chosen: dict[tuple[str, str], str] = {}
    for argument, option in OPTIONS.items():
        if option not in chosen or (chosen[option] not in parameters and argument in parameters):
            chosen[option] = argument
    if CLASSES in parameters and "prompt" not in parameters:
        chosen[OPTIONS["prompt"]] = CLASSES
    return {argument: option for option, argument in chosen.items()}


def _class_of(pipe: Any, prompt: str) -> int:
    try:
        return class_of(pipe, prompt)
    except CalibrationError as error:
        raise InputError(str(error)) from error


def effective(pipe: Any, request: Request) -> dict[str, Any]:
    """Every option of :data:`OPTIONS` that the pipeline takes, but for files, with the value that it will use.

    Each has the first of its names, such as ``num_frames``, whatever this pipeline calls it.
    """
    parameters, values = parameters_of(pipe), {}
    named = {option: name for name, option in list(OPTIONS.items())[::-1]}  # the first of its names
    for taken, option in options_of(parameters).items():
        if taken in parameters and not is_file(option[0]):
            value = getattr(request, option[0])
            values[named[option]] = parameters[taken].default if value is None else value
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


def true_scale(parameters: Mapping[str, inspect.Parameter], request: Request) -> float | None:
    """How strongly two calls guide, where ``guidance_scale`` is what the model learned; None where it is not."""
    if SCALE not in parameters:
        return None
    given = [each.value for each in request.named() if each.name == SCALE and isinstance(each.value, (int, float))]
    return given[0] if given else parameters[SCALE].default


def _check_negative_prompt(name: str, values: Mapping[str, Any], true: float | None) -> None:
    if values.get("negative_prompt") is None:
        return
    if true is not None:
        if true <= 1:
            raise InputError(
                f"{name} ignores --negative-prompt unless {SCALE} is above 1: give --argument {SCALE}=4 or so"
            )
        return
    scale = values.get("guidance_scale")
    if scale is not None and scale <= 1:
        raise InputError(
            f"--negative-prompt has no effect with guidance scale {scale:g}: {name} guides above 1; raise "
            "--guidance-scale or drop the negative prompt"
        )


def _check_guidance(pipe: Any, name: str, parameters: Mapping[str, inspect.Parameter], request: Request) -> None:
    """Where a pipeline knows both scales, ``guidance_scale`` is what a model has learned, if it has."""
    config = getattr(getattr(pipe, "transformer", None), "config", {})
    if request.guidance_scale is not None and SCALE in parameters and not config.get("guidance_embeds", True):
        raise InputError(
            f"{name} ignores --guidance-scale, which this model has not learned; it guides by {SCALE} (--argument "
            f"{SCALE}=X, default {parameters[SCALE].default:g}) where there is a negative prompt; drop it"
        )


def _check_start(
    name: str, parameters: Mapping[str, inspect.Parameter], request: Request, values: Mapping[str, Any]
) -> None:
    """``strength`` is how far to depart from a picture or film, and how many of the steps are made."""
    if "strength" not in parameters:
        return
    if not request.files().keys() & {"image", "video"} and (request.strength or parameters["strength"].default) < 1:
        starts = {"image": "--image", "video": "--video"}
        known = " or ".join(option for field, option in starts.items() if field in parameters)
        raise InputError(f"{name} departs from what it is given, by --strength: give {known}")
    strength, steps = values["strength"], values.get("num_inference_steps")
    if strength and steps and int(steps * strength) < 1:
        raise InputError(f"--strength {strength:g} of {steps} steps leaves none: raise one of them")


def _check_images(name: str, parameters: Mapping[str, inspect.Parameter], request: Request) -> None:
    """Where a picture is a clip's first frame, or what to depart from, diffusers would make as many clips."""
    count = len(request.files().get("image", ()))
    several = any(argument in parameters for argument in OF_SEVERAL)
    if count > 1 and not several and ("strength" in parameters or any(each in parameters for each in FRAMES)):
        raise InputError(f"{name} begins with one picture, and {count} are given: give --image once")


def _check_size(pipe: Any, name: str, values: Mapping[str, Any]) -> None:
    """Pipelines round what does not fit and only log it; the user gets what was asked for, or is told."""
    # Pipelines of pictures have one factor, those of videos two.
    spatial = getattr(pipe, "vae_scale_factor_spatial", None) or getattr(pipe, "vae_scale_factor", None)
    patches, limit = _cells(pipe)
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
    if (frames := values.get("num_frames")) is not None:
        _check_frames(pipe, name, frames)


def _check_frames(pipe: Any, name: str, frames: int) -> None:
    temporal = getattr(pipe, "vae_scale_factor_temporal", None)
    if temporal is None:
        return
    if (frames - 1) % temporal:
        raise InputError(f"{frames} frames do not fit {name}: {_nearest(frames, 1, temporal)}")
    patches, limit = _cells(pipe)
    _check_limit("frames", frames, limit, ((patches[0] or 1) * limit - 1) * temporal + 1 if limit else 0, name)


def _cells(pipe: Any) -> tuple[tuple[Any, ...], int | None]:
    """How many cells of the VAE's latents the model takes together, over time, height and width; how many it places."""
    transformer = getattr(pipe, "transformer", None) or getattr(pipe, "transformer_2", None)
    config = getattr(transformer, "config", {})
    patch = config.get("patch_size")
    # One number an axis, of three (Wan) or two (HunyuanImage), or one number for height and width.
    sizes = tuple(patch) if isinstance(patch, (list, tuple)) else (patch, patch)
    return (config.get("patch_size_t", 1), *sizes)[-3:], config.get("rope_max_seq_len")


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
