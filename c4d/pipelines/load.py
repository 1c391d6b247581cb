"""Finding and loading a pipeline; what can be known without weights is checked without them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

import c4d
from c4d.backends import Backend
from c4d.models import spec_for
from c4d.pipelines.embedded import EMBEDDED
from c4d.pipelines.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TRANSFORMERS = ("transformer", "transformer_2")


def parse_dtype(text: str) -> torch.dtype:
    """The dtype of that name; :class:`InputError` for another one."""
    if text not in DTYPES:
        raise InputError(f"unknown dtype {text!r}: known are {', '.join(DTYPES)}")
    return DTYPES[text]


def locate(model: str) -> tuple[str, bool]:
    """``model`` as diffusers takes it, and whether it is on this disk.

    An embedded name, a directory with a ``model_index.json``, or a hub id ``owner/name``. Whatever looks like a path
    and is none is an :class:`InputError`, never a download.
    """
    ways = f"give an embedded model ({', '.join(EMBEDDED)}), a diffusers directory, or a hub id owner/name"
    if model in EMBEDDED:
        folder = Path(str(files("c4d") / "assets" / EMBEDDED[model].folder))
        if not (folder / "model_index.json").is_file():
            raise InputError(f"embedded model {model!r} is missing from this installation of c4d; install it again")
        return str(folder), True
    path = Path(model).expanduser()
    if (path / "model_index.json").is_file():
        return str(path), True
    if path.exists():
        raise InputError(f"model {model!r} is no diffusers pipeline (it has no model_index.json); {ways}")
    if not HUB_ID.fullmatch(model) or path.parent.is_dir():
        raise InputError(f"model {model!r} does not exist; {ways}")
    return model, False


def check_method(model: str, method: str | None, *, backend: Backend) -> None:
    """Refuses, before any weight is read, a model that c4d does not know and a method that does not fit it.

    Raises :class:`InputError`. Reads the configuration files only (for a hub id: downloads these).
    """
    source, local = locate(model)
    for name, class_name in _transformer_classes(model, source, local).items():
        import diffusers

        cls = getattr(diffusers, class_name, None)
        if cls is None:
            raise InputError(f"{model!r} has a {class_name}, which diffusers {diffusers.__version__} does not know")
        try:
            spec_for(cls.__new__(cls))  # the class is all that it looks at
            if method is not None:
                with torch.device("meta"):  # the modules without their weights
                    skeleton = cls.from_config(cls.load_config(source, subfolder=name, local_files_only=local))
                with c4d.cached(skeleton, method, backend=backend):
                    pass
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error


def load_pipeline(
    model: str, *, backend: Backend, dtype: str | torch.dtype | None = None, progress: bool = False
) -> Any:
    """A diffusers pipeline on the backend's device.

    Args:
        model: as in :func:`locate`.
        dtype: of the weights, as text or torch's; None is the backend's default. The video decoder of Wan always stays
            in float32, as its authors run it.
        progress: show the bars of the libraries that load (not for an embedded model, which takes no time).

    Raises:
        InputError: a model that does not exist, is no pipeline, or has no supported transformer.
    """
    weights = parse_dtype(dtype) if isinstance(dtype, str) else dtype or backend.default_dtype
    check_method(model, None, backend=backend)
    source, local = locate(model)
    from diffusers import DiffusionPipeline

    kinds = {"default": weights}
    if DiffusionPipeline.load_config(source, local_files_only=local).get("vae", [None, None])[1] == "AutoencoderKLWan":
        kinds["vae"] = torch.float32
    try:
        with _library_bars(progress and model not in EMBEDDED):  # an embedded model is there at once
            pipe = DiffusionPipeline.from_pretrained(source, dtype=kinds, use_safetensors=True, local_files_only=local)
    except OSError as error:
        raise InputError(f"model {model!r} cannot be loaded: {error}") from error
    return pipe.to(backend.device_type)


def compile_blocks(pipe: Any) -> list[str]:
    """Compiles the repeated blocks of every transformer, one graph each; returns a line about each transformer."""
    lines = []
    for name in TRANSFORMERS:
        if (transformer := getattr(pipe, name, None)) is not None:
            transformer.compile_repeated_blocks(fullgraph=True)
            lines.append(f"{name}: {', '.join(transformer._repeated_blocks)} compiled (fullgraph), at first use")
    return lines


def _transformer_classes(model: str, source: str, local: bool) -> dict[str, str]:
    """Component -> class name, from the pipeline's index."""
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(source, local_files_only=local)
    except OSError as error:
        where = "read" if local else "found on this disk or on the hub"
        raise InputError(f"model {model!r} cannot be {where}: {str(error).splitlines()[0]}") from error
    found = {name: index[name][1] for name in TRANSFORMERS if index.get(name, [None, None])[1] is not None}
    if not found:
        raise InputError(
            f"model {model!r} ({index.get('_class_name')}) has no transformer: c4d caches diffusion transformers, not "
            f"U-Nets; it supports {', '.join(c4d.models.SPECS)}"
        )
    return found


@contextmanager
def _library_bars(shown: bool) -> Iterator[None]:
    """Loading bars of diffusers and transformers, on or off; both libraries are left as they were."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [library.is_progress_bar_enabled() for library in libraries]
    try:
        for library in libraries:
            library.enable_progress_bar() if shown else library.disable_progress_bar()
        yield
    finally:
        for library, enabled in zip(libraries, before, strict=True):
            library.enable_progress_bar() if enabled else library.disable_progress_bar()
