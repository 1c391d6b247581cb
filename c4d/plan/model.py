"""A model to plan for, made of its configuration alone: nothing is read of weights, which need not be there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from c4d.bundled.models import BUNDLED, INDEX
from c4d.core.importing import importing
from c4d.core.integration.transformers import NAMES
from c4d.models import SPECS
from c4d.pipelines.directory import components, locate, read_json
from c4d.pipelines.errors import InputError
from c4d.pipelines.quiet import quiet

CONFIG = "config.json"
WAYS = (
    "give a class that c4d models lists, a config.json of a transformer, a diffusers directory (with or without "
    f"weights), or a bundled model ({', '.join(BUNDLED)})"
)


@dataclass(frozen=True)
class Planned:
    """A transformer on the meta device, what it was made of, and the weights of the other parts.

    ``others`` maps each to its bytes, None where its configuration alone does not tell. ``decoder``: the pixels of a
    latent's side, and its frames (None: not known).
    """

    transformer: nn.Module
    source: str
    others: Mapping[str, int | None]
    decoder: tuple[int, int] | None = None


def planned(model: str, dtype: torch.dtype) -> Planned:
    """``model`` with weights of ``dtype``. Raises :class:`InputError` for what is none, or that c4d cannot plan for."""
    if model in SPECS:
        return Planned(_transformer(model, {}, dtype), "the defaults of its class", {})
    path = Path(os.path.expanduser(model))
    if path.is_dir() and not (path / INDEX).is_file():
        path = path / CONFIG
    if model not in BUNDLED and path.is_file():
        config = read_json(path)
        return Planned(_transformer(str(config.get("_class_name")), config, dtype), str(path), {})
    if model not in BUNDLED and not path.is_dir():
        raise InputError(f"model {model!r} is nothing to plan for; {WAYS}")
    folder = Path(locate(model)[0])
    named = components(read_json(folder / INDEX))
    first = next((name for name in NAMES if name in named), None)
    if first is None:
        raise InputError(f"model {model!r} has none of {', '.join(NAMES)}: nothing to cache")
    config = read_json(folder / first / CONFIG)
    others = {
        name: _bytes(folder / name, library, cls, dtype)
        for name, (library, cls) in named.items()
        if name != first and (folder / name / CONFIG).is_file()
    }
    return Planned(_transformer(named[first][1], config, dtype), str(folder), others, _decoder(folder / "vae"))


def _decoder(folder: Path) -> tuple[int, int] | None:
    """What diffusers' pipelines read of a decoder's configuration: each kind says it in its own words."""
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    halved = 2 ** (len(config.get("block_out_channels", ())) - 1) if config.get("block_out_channels") else None
    spatial = config.get("scale_factor_spatial") or config.get("spatial_compression_ratio") or halved
    temporal = config.get("scale_factor_temporal") or config.get("temporal_compression_ratio") or 1
    return None if spatial is None else (int(spatial), int(temporal))


def _transformer(name: str, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    if name not in SPECS:
        raise InputError(f"the class {name!r} has no description in c4d (c4d models lists those that have one); {WAYS}")
    try:
        return cast(_made("diffusers", name, config), dtype)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"this configuration makes no {name}: {str(error).splitlines()[0]}; {WAYS}") from error


def _made(library: str, name: str, config: Mapping[str, Any]) -> nn.Module:
    with importing(library):
        cls: Any = getattr(import_module(library), name)
    with quiet(bars=False, remarks=False), torch.device("meta"):
        if library == "diffusers":
            made: nn.Module = cls.from_config(dict(config)) if config else cls()
        else:
            made = cls(cls.config_class.from_dict(dict(config)))
    return made


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """With parameters of ``dtype``, but those that diffusers leaves in fp32 when it loads a model in a narrower one."""
    kept = tuple(getattr(module, "_keep_in_fp32_modules", None) or ()) if dtype.itemsize < 4 else ()
    for name, parameter in module.named_parameters():
        inside = any(part in name.split(".") for part in kept)
        parameter.data = parameter.data.to(torch.float32 if inside else dtype)
    return module


def _bytes(part: Path, library: str, name: str, dtype: torch.dtype) -> int | None:
    """Of the parameters and buffers of another component; None where its class does not come to be without numbers."""
    try:
        module = nn.Module.to(_made(library, name, read_json(part / CONFIG)), dtype)
    except Exception:  # of whatever computes with numbers when it is made; it is told as not known
        return None
    return sum(x.nbytes for x in (*module.parameters(), *module.buffers()))
