"""Finding a diffusers pipeline, and what its directory must hold before a weight of it is read."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from c4d.bundled.models import BUNDLED, EVERY, INDEX, bundled_model
from c4d.core.integration.transformers import NAMES as TRANSFORMERS
from c4d.pipelines.errors import InputError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
VARIANT = re.compile(r"\w[\w-]*")
SAFE, PICKLE = ".safetensors", ".bin"
STEMS = {  # of the files that the libraries look for
    "diffusers": {SAFE: "diffusion_pytorch_model", PICKLE: "diffusion_pytorch_model"},
    "transformers": {SAFE: "model", PICKLE: "pytorch_model"},
}
PICKLES = (PICKLE, ".pt", ".pth", ".ckpt")
TEXTS = (".json", ".txt", ".model")  # configurations and vocabularies
LFS = b"version https://git-lfs"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Files:
    """Which files of a model are read.

    ``revision``: branch, tag or commit of a hub id. ``variant``: of the weights, such as fp16, where a component has
    them. ``local_files_only``: nothing is fetched.
    """

    revision: str | None = None
    variant: str | None = None
    local_files_only: bool = False

    def told(self) -> dict[str, str]:
        """The revision and the variant, if they were asked for."""
        said = {"revision": self.revision, "variant": self.variant}
        return {name: value for name, value in said.items() if value is not None}

    def check(self, model: str, *, local: bool) -> None:
        """Raises :class:`InputError` for a revision of what is on this disk, and a variant that is no name."""
        if local and self.revision is not None:
            raise InputError(
                f"--revision {self.revision!r} is of a hub id, and model {model!r} is on this disk: drop it"
            )
        if self.variant is not None and not VARIANT.fullmatch(self.variant):
            raise InputError(f"--variant {self.variant!r} is no part of a file's name; give one such as fp16")


USUAL = Files()


def locate(model: str) -> tuple[str, bool]:
    """``model`` as diffusers takes it, and whether it is on this disk.

    A bundled name, a directory with a ``model_index.json``, or a hub id ``owner/name``. Whatever looks like a path
    and is none is an :class:`InputError`, never a download.
    """
    ways = f"give a bundled model ({', '.join(BUNDLED)}), a diffusers directory, or a hub id owner/name"
    if model in EVERY:
        try:
            return bundled_model(model), True
        except FileNotFoundError as error:
            raise InputError(str(error)) from error
    path = Path(os.path.expanduser(model))
    try:
        if (path / INDEX).is_file():
            return str(path), True
        if path.exists():
            raise InputError(f"model {model!r} is no diffusers pipeline (it has no {INDEX}); {ways}")
    except OSError as error:
        raise InputError(f"model {model!r} cannot be read: {error.strerror}; {ways}") from error
    if not HUB_ID.fullmatch(model) or path.parent.is_dir():
        raise InputError(f"model {model!r} does not exist; {ways}")
    return model, False


def components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name -> (library, class) of every component that a ``model_index.json`` names."""
    pairs = {name: value for name, value in index.items() if isinstance(value, (list, tuple)) and name[0] != "_"}
    return {name: (v[0], v[1]) for name, v in pairs.items() if len(v) == 2 and all(isinstance(x, str) for x in v)}


def check_directory(folder: Path, *, allow_pickle: bool, variant: str | None = None) -> dict[str, Shapes]:
    """Component -> name -> shape of all its tensors, read from the headers of the files alone.

    Raises :class:`InputError` for a component without a folder, a configuration that is no JSON, weights that are
    missing, cut short, not fetched from git-lfs, or (unless ``allow_pickle``) pickled, and a ``variant`` that none has.
    """
    held, varied = {}, False
    for name, (library, _) in components(read_json(folder / INDEX)).items():
        part = folder / name
        if not part.is_dir():
            raise _broken(part, f"is missing, though {INDEX} names a {name}")
        for file in sorted(part.iterdir()):
            if file.suffix == ".json":
                read_json(file)
            elif file.suffix in TEXTS:
                _fetched(file)
        # Tokenizers, schedulers and processors have a configuration of another name, and no weights.
        if (library in STEMS or name in TRANSFORMERS) and (part / "config.json").is_file():
            held[name] = _shapes(part, library, allow_pickle, variant)
            varied = varied or has_variant(part, variant)
        elif found := [file.name for file in part.iterdir() if file.suffix in (SAFE, *PICKLES)]:
            raise _broken(part, f"has {found[0]} but no config.json")
    if variant is not None and not varied:
        raise InputError(f"--variant {variant!r}: no weights in {str(folder)!r} are of that variant; drop it")
    return held


def has_variant(part: Path, variant: str | None) -> bool:
    """Whether the folder of a component has weights of that variant."""
    return variant is not None and any(
        (part / name).is_file()
        for stems in STEMS.values()
        for suffix in stems
        for name in _names(stems[suffix] + suffix, variant)
    )


def _names(file: str, variant: str | None) -> tuple[str, str]:
    """What a file of weights is called, and the index of its shards."""
    between = f".{variant}" if variant is not None else ""
    stem, _, ending = file.rpartition(".")
    return f"{stem}{between}.{ending}", f"{file}.index{between}.json"


def _candidates(
    part: Path, stems: Mapping[str, str], allow_pickle: bool, variant: str | None
) -> Iterator[tuple[Path, Path]]:
    """The file of all weights and the index of shards, in the order in which the libraries look for them."""
    for suffix in (SAFE, PICKLE) if allow_pickle else (SAFE,):
        for which in dict.fromkeys((variant, None)):
            single, index = _names(stems[suffix] + suffix, which)
            yield part / single, part / index


def _shapes(part: Path, library: str, allow_pickle: bool, variant: str | None) -> Shapes:
    """The tensors of the file or shards that the library will read; a class of another package is one of diffusers'."""
    stems = STEMS.get(library, STEMS["diffusers"])
    for single, index in _candidates(part, stems, allow_pickle, variant):
        if index.is_file() and not (library == "transformers" and single.is_file()):
            return _sharded(part, index)
        if single.is_file():
            return tensors(single)
    others = sorted(file.name for file in part.iterdir() if file.suffix in (SAFE, *PICKLES))
    if any(name.endswith(PICKLES) for name in others) and not any(name.endswith(SAFE) for name in others):
        raise InputError(
            f"{str(part)!r} has only pickled weights ({', '.join(others)}), which can run code when they are opened: "
            "convert them to safetensors"
            + ("" if allow_pickle else f", or trust a {stems[PICKLE]}{PICKLE} with --allow-pickle")
        )
    wanted = f"{stems[SAFE]}{SAFE}"
    raise _broken(part, f"has no {wanted}" + (f", only {', '.join(others)}" if others else " and no other weights"))


def _sharded(part: Path, index: Path) -> Shapes:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise _broken(index, "has no weight_map from tensors to files")
    shards = sorted(set(places.values()))
    if missing := [shard for shard in shards if not (part / shard).is_file()]:
        raise _broken(part, f"lacks {', '.join(missing)} of the {len(shards)} files that {index.name} lists")
    held = {shard: tensors(part / shard) for shard in shards}
    if lost := [tensor for tensor, shard in places.items() if tensor not in held[shard]]:
        raise _broken(part / places[lost[0]], f"lacks the tensor {lost[0]} that {index.name} places in it")
    return {name: shape for shapes in held.values() for name, shape in shapes.items()}


def tensors(file: Path) -> Shapes:
    """Name -> shape of what a file of weights holds. Raises :class:`InputError` for one that is damaged or no such."""
    _fetched(file)
    try:
        if file.suffix == SAFE:
            with safe_open(file, "pt") as opened:  # compares the header with the size of the file
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        held = torch.load(file, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in held.items()}
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{str(file)!r} is no pickle of tensors alone, and c4d opens no other: convert it to safetensors"
        ) from error
    except Exception as error:  # each format has exceptions of its own, and so has each way to be broken
        size, reason = file.stat().st_size, str(error).splitlines()[0]
        raise _broken(file, f"is cut short or damaged ({size} bytes; {reason})") from error


def read_json(file: Path) -> dict[str, Any]:
    """The object that a file holds; :class:`InputError` for anything else."""
    _fetched(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(file, f"is no valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise _broken(file, "holds no JSON object")
    return values


def _fetched(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            pointer = opened.read(len(LFS)) == LFS
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}; make it readable") from error
    if pointer:
        raise InputError(f"{str(file)!r} is a git-lfs pointer, not the file: run git lfs pull in its folder")


def _broken(path: Path, reason: str) -> InputError:
    return InputError(f"{str(path)!r} {reason}: the model is incomplete; download or save it again")
