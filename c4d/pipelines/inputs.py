"""The files of a request as a pipeline takes them: pictures, or films as lists of pictures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, MutableMapping
from typing import Any

from c4d.pipelines.errors import InputError
from c4d.pipelines.film import picture, pictures
from c4d.pipelines.request import FILMS, PICTURES, Request

Parameters = Mapping[str, inspect.Parameter]

FRAMES = ("num_frames", "frames", "video_length")  # what pipelines call the length of a clip
OF_FRAMES = ("video", "mask_video", "control_video", "conditioning_frames")  # arguments that take a film
OF_SEVERAL = ("images", "input_images", "reference_images")  # arguments that take a list, also of one picture


def is_film(argument: str, parameters: Parameters) -> bool:
    """Whether a pipeline takes a list of frames; a mask is one where it is beside a film."""
    return argument in OF_FRAMES or (argument == "mask" and "video" in parameters)


def frame_by_frame(parameters: Parameters) -> bool:
    """Whether a film says how the clip is to be, frame by frame; else the clip may go on from it."""
    guiding = any(is_film(argument, parameters) for argument in parameters if argument != "video")
    return guiding or ("video" in parameters and not any(name in parameters for name in FRAMES))


def opened(name: str, argument: str, option: tuple[str, str], parameters: Parameters, request: Request) -> Any:
    """What the pipeline called ``name`` gets as ``argument``: a picture of PIL (a mask in grey), or a list of them.

    ``option``: field of the request and option of the command line. Raises :class:`InputError` for what cannot be read.
    """
    (field, flag), paths = option, request.files()[option[0]]
    mode, said = "L" if field == "mask" else "RGB", field.replace("_", " ")
    if is_film(argument, parameters):
        kind = str(parameters[argument].annotation)
        if "torch" in kind and "PIL" not in kind:
            raise InputError(
                f"{name} takes {argument} as a tensor of its own layout, which {flag} cannot give; call it from Python "
                "inside c4d.cached(...)"
            )
        return pictures(paths[0], said, mode)
    found = [picture(path, said, mode) for path in paths]
    return found if len(found) > 1 or argument in OF_SEVERAL else found[0]


def fit_films(given: MutableMapping[str, Any], parameters: Parameters, request: Request) -> int | None:
    """Cuts the films among the arguments ``given`` to the frames that are asked for, and has the clip be as long.

    Returns that length, None where no film says how the clip is to be. Raises :class:`InputError` for films that are
    too short, or of several lengths.
    """
    lengths = {argument: len(given[argument]) for argument in given if is_film(argument, parameters)}
    if not lengths or not frame_by_frame(parameters):
        return None
    said = ", ".join(f"{argument} has {length} frames" for argument, length in lengths.items())
    if request.num_frames is None and len(set(lengths.values())) > 1:
        raise InputError(f"the films differ in length ({said}): give --frames, and so many of each are taken")
    wanted = request.num_frames or min(lengths.values())
    if wanted > min(lengths.values()):
        raise InputError(f"--frames {wanted} is more than there is: {said}; ask for fewer, or give a longer film")
    given.update({argument: given[argument][:wanted] for argument in lengths})
    given.update({argument: wanted for argument in FRAMES if argument in parameters})
    return wanted


def is_file(field: str) -> bool:
    """Whether a field of a request names files."""
    return field in (*PICTURES, *FILMS)
