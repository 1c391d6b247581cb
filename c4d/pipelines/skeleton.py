"""A pipeline without its weights: enough to tell whether a model, a method and a request go together."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import c4d
from c4d.backends import BACKENDS, Backend, load
from c4d.core.caching.rules import CacheMethod
from c4d.core.importing import importing
from c4d.core.integration.transformers import NAMES as TRANSFORMERS
from c4d.models import spec_for
from c4d.pipelines.directory import INDEX, STEMS, USUAL, Files, Shapes, check_directory, components, locate, read_json
from c4d.pipelines.errors import InputError
from c4d.pipelines.quiet import quiet

AGAIN = "download or save the model again"
SECONDS = 10.0  # for the hub to answer


def skeleton(model: str, *, allow_pickle: bool = False, whole: bool = False, files: Files = USUAL) -> Any:
    """The pipeline of ``model`` with its transformers and its decoder on the meta device and nothing that reads text,
    or, if it is to be ``whole``, with that too: encoders on the meta device, and tokenizers.

    Reads configuration files and the headers of weights (for a hub id: downloads the configuration files). Raises
    :class:`InputError` for a model that does not exist, is incomplete or damaged, has no supported transformer, or
    whose weights are not those of its configuration; :class:`CannotImportError` if the library of its classes cannot be
    imported.
    """
    with quiet(bars=False, remarks=False):  # loading makes them again
        return _skeleton(model, allow_pickle, whole, files)


def _skeleton(model: str, allow_pickle: bool, whole: bool, files: Files) -> Any:
    source, local = locate(model)
    files.check(model, local=local)
    where = {"local_files_only": local or files.local_files_only, "revision": files.revision}
    index = read_json(Path(source) / INDEX) if local else _from_hub(source, files)
    base_pipeline()  # first: where diffusers fails, parts of it or of transformers would be blamed
    classes = _supported(model, index)
    held = check_directory(Path(source), allow_pickle=allow_pickle, variant=files.variant) if local else {}
    parts = {
        name: _part(model, source, where, name, cls, held.get(name))
        for name, cls in classes.items()
        if components(index)[name][0] == "diffusers" or name in TRANSFORMERS
    }
    if whole:
        readers = {name: cls for name, cls in classes.items() if name not in parts}
        parts |= {name: _reader(model, source, where, name, cls) for name, cls in readers.items()}
    cls = _class("pipeline", model, index.get("_class_name"))
    try:
        return _pipeline(model, cls, index, parts)
    except InputError:
        raise
    except Exception:  # a class that looks into parts which are not there; its request is checked after loading
        return SimpleNamespace(**parts)


def check_method(pipe: Any, method: CacheMethod, *, backend: Backend, steps: int | None = None) -> None:
    """Raises :class:`InputError` for a method that does not fit the transformers of ``pipe``, a skeleton or not, or is
    made for another number of steps (None: not known here)."""
    for rule in method.rules:
        if steps is not None and (made_for := rule.policy.steps) not in (None, steps):
            raise InputError(
                f"method {method.name!r} is made for {made_for} steps, and the run has {steps}: give --steps "
                f"{made_for}, or a schedule of your own (c4d methods schedule)"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said again where it runs
            with c4d.cached(pipe, method, backend=backend):
                pass
    except ValueError as error:
        raise InputError(f"{error}; the method, or its fit, was made for other models (see c4d models)") from error


def check_attention(pipe: Any, kernel: str, dtype: torch.dtype, *, backend: Backend) -> None:
    """Raises :class:`InputError` for a kernel that cannot compute attention in ``dtype`` for ``pipe``, a skeleton."""
    for name in TRANSFORMERS:
        if (transformer := getattr(pipe, name, None)) is not None:
            nn.Module.to(transformer, dtype)  # diffusers' own speaks of layers that it would keep in fp32
    try:
        c4d.attention(pipe, kernel, backend=backend).unused = None  # it is only asked
    except ValueError as error:
        others = [name for name in BACKENDS if name != backend.name and kernel in load(name).attention_kernels]
        where = f"; backend {' and '.join(others)} has one of that name" if others else ""
        raise InputError(f"--attention {kernel!r}: {error}, or own{where} (c4d doctor says what each takes)") from error


def base_pipeline() -> Any:
    """The class of diffusers that all pipelines are made of. Raises :class:`CannotImportError` without it."""
    with importing("diffusers"):
        from diffusers import DiffusionPipeline
    return DiffusionPipeline


def _from_hub(model: str, files: Files) -> Mapping[str, Any]:
    from huggingface_hub import HfApi, try_to_load_from_cache

    base = base_pipeline()
    try:
        here = isinstance(try_to_load_from_cache(model, INDEX, revision=files.revision), str)
        if not here and not files.local_files_only:  # once: what loads tries again and again for a minute
            HfApi().model_info(model, revision=files.revision, timeout=SECONDS)
        return _config(base, model, revision=files.revision, local_files_only=files.local_files_only)
    except Exception as error:  # of whatever fetches for the library
        where = "among what was fetched to this disk" if files.local_files_only else "on this disk or on the hub"
        way = (
            "drop --local-files-only" if files.local_files_only else "the connection, and HF_TOKEN if it is not public"
        )
        raise InputError(
            f"model {model!r} cannot be found {where}: {str(error).strip().splitlines()[0]}; check its name, "
            f"{'--revision, ' if files.revision else ''}{way}"
        ) from error


def _config(cls: Any, source: str, **where: Any) -> Mapping[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one library about the other
        return cls.load_config(source, **where)


def _supported(model: str, index: Mapping[str, Any]) -> dict[str, Any]:
    """Component -> class of diffusers or transformers, or whose a transformer is; that has a spec, and there is one."""
    named = components(index)
    if not any(name in named for name in TRANSFORMERS):
        raise InputError(
            f"model {model!r} ({index.get('_class_name')}) has none of {', '.join(TRANSFORMERS)}: nothing to cache"
        )
    wanted = {name: pair for name, pair in named.items() if pair[0] in STEMS or name in TRANSFORMERS}
    classes = {name: _class(name, model, cls, library) for name, (library, cls) in wanted.items()}
    for name in TRANSFORMERS:
        if (cls := classes.get(name)) is not None:
            try:
                spec_for(cls.__new__(cls))  # the class is all that it looks at
            except TypeError as error:
                raise InputError(f"model {model!r}: {error}") from error
    return classes


def _class(what: str, model: str, name: Any, library: str = "diffusers") -> Any:
    with importing(library):
        module = import_module(library)
        cls = getattr(module, name, None) if isinstance(name, str) else None  # imports what it is made of
    if cls is None:
        version = getattr(module, "__version__", "").strip()
        raise InputError(
            f"the {what} of model {model!r} is of class {name!r}, which {library} {version} does not know; "
            f"upgrade {library}, or give another model"
        )
    return cls


def _part(model: str, source: str, where: Mapping[str, Any], name: str, cls: Any, held: Shapes | None) -> Any:
    try:
        config = _config(cls, source, subfolder=name, **where)
        with torch.device("meta" if issubclass(cls, nn.Module) else "cpu"):
            part = cls.from_config(config)
    except Exception as error:
        if isinstance(error, NotImplementedError) and issubclass(cls, nn.Module) and name not in TRANSFORMERS:
            return None  # its constructor computes with numbers, which the meta device has not
        raise InputError(
            f"the configuration of the {name} of model {model!r} makes no {cls.__name__}: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}; {AGAIN}"
        ) from error
    if held is not None and not config.get("quantization_config"):  # quantized weights have names and shapes of theirs
        _check_filled(part, held, f"the weights of the {name} of model {model!r}")
    return part


def _reader(model: str, source: str, where: Mapping[str, Any], name: str, cls: Any) -> Any:
    """A component of transformers: one with weights on the meta device."""
    where = {"subfolder": name, **where}
    try:
        if not issubclass(cls, nn.Module):
            return cls.from_pretrained(source, **where)
        with torch.device("meta"):
            return cls(cls.config_class.from_pretrained(source, **where))
    except Exception as error:  # of whatever a broken file leads the library to
        raise InputError(
            f"the {name} of model {model!r} cannot be made without its weights: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}; {AGAIN}"
        ) from error


def _pipeline(model: str, cls: Any, index: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """``cls`` with these parts and None for all others."""
    parameters = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self"}
    known = (*components(index), *getattr(cls, "_optional_components", ()))
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if lacking := [name for name in required if name not in known]:
        raise InputError(
            f"model {model!r} lacks {', '.join(lacking)}: {cls.__name__} needs it, {INDEX} has none; {AGAIN}"
        )
    plain = {name: value for name, value in index.items() if not isinstance(value, list)}
    values = {**dict.fromkeys((*known, *required)), **plain, **parts}
    return cls(**{name: value for name, value in values.items() if name in parameters})


def _check_filled(part: nn.Module, held: Shapes, what: str) -> None:
    """Diffusers only logs tensors that are missing, and goes on with random numbers in their place."""
    wanted = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    ignored = getattr(part, "_keys_to_ignore_on_load_unexpected", None) or ()
    unknown = [name for name in held if name not in wanted and not any(re.search(p, name) for p in ignored)]
    missing = [name for name in wanted if name not in held]
    other = [
        f"{name} {held[name]} for {wanted[name]}" for name in wanted if held.get(name, wanted[name]) != wanted[name]
    ]
    for said, names in (("missing", missing), ("unknown to it", unknown), ("of another shape", other)):
        if names:
            raise InputError(f"{what} do not fit its config.json: {listed(said, names)}; {AGAIN}")


def listed(said: str, names: Sequence[str]) -> str:
    """How many tensors, and some of them."""
    return f"tensors {said}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
