"""LoRAs: what ``--lora`` names, whether it fits a pipeline, and how it gets into one."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from c4d.core.importing import importing
from c4d.pipelines.directory import HUB_ID, SAFE, tensors
from c4d.pipelines.errors import InputError
from c4d.pipelines.request import digest

FILE = f"pytorch_lora_weights{SAFE}"  # as diffusers saves one
SECOND = "transformer_2"
EXPERT = f"@{SECOND}"  # behind what is for the second expert
OF_HUB = re.compile(rf"(?P<repository>{HUB_ID.pattern})(/(?P<file>.+\.safetensors))?")
PARTS = re.compile(r"\.(lora_[AB]|lora\.(up|down)|lora_magnitude_vector|alpha)(\..*)?$")  # of a module's name
ON_DISK = {"use_safetensors": True, "local_files_only": True}
GROWS = "_maybe_expand_transformer_param_shape_or_error_"  # of pipelines whose layers take wider LoRAs


@dataclass(frozen=True)
class Lora:
    """Weights in a safetensors file, added to a pipeline's times ``scale``; ``sha256`` is of the file.

    ``expert``: to the pipeline's second transformer, not to its first.
    """

    path: Path
    scale: float
    sha256: str
    expert: bool = False

    @classmethod
    def read(cls, text: str, *, local_files_only: bool = False) -> Lora:
        """What ``PATH[:SCALE][@transformer_2]`` names: a safetensors file, a folder with one as diffusers saves it, or
        one of the hub, ``owner/name`` or ``owner/name/FILE``, which is fetched if it is not here and may be. What
        looks like a path and is none is never fetched.

        Raises :class:`InputError` for what is not there or damaged.
        """
        named = text.removesuffix(EXPERT) if not Path(text).exists() else text
        where, colon, last = named.rpartition(":")
        scale = _number(last) if colon and not Path(named).exists() else None
        given = named if scale is None else where
        path = Path(os.path.expanduser(given))
        scale = 1.0 if scale is None else scale
        if not math.isfinite(scale):
            raise InputError(f"--lora {text!r}: the scale is {scale!r}; allowed are finite numbers, such as PATH:0.8")
        file = path / FILE if path.is_dir() else path
        if not file.exists() and (match := OF_HUB.fullmatch(given)) and not Path(path.parts[0]).is_dir():
            file = _fetched(text, match["repository"], match["file"] or FILE, local_files_only)
        if not file.is_file() or file.suffix != SAFE:
            raise InputError(
                f"--lora {text!r} is no LoRA on this disk, nor one of the hub: give a {SAFE} file, a folder with "
                f"{FILE}, owner/name or owner/name/FILE, and :SCALE behind it if it is not to be 1"
            )
        tensors(file)
        return cls(file, scale, digest(file), named != text)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        said = {"path": str(self.path), "scale": self.scale, "sha256": self.sha256}
        return {**said, "expert": True} if self.expert else said

    def into(self) -> dict[str, Any]:
        """What diffusers' ``load_lora_weights`` is told besides the file."""
        return {f"load_into_{SECOND}": True} if self.expert else {}


def _fetched(text: str, repository: str, file: str, local_files_only: bool) -> Path:
    """A file of the hub on this disk."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, local_files_only=local_files_only))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"--lora {text!r} is not on this disk, and {file} of {repository} was not fetched before and cannot be "
            "now: look for a mistake in its name, or fetch it by hf download where there is a network"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"--lora {text!r}: {file} of {repository} cannot be fetched ({said[:300]})") from error


def check_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Raises :class:`InputError` for LoRAs with a tensor that has no place in ``pipe``, a skeleton or not.

    Of a skeleton, what is for its text encoders is not looked at. Raises CannotImportError where peft is missing.
    """
    if not loras or not callable(pipe):  # else only the whole pipeline can tell
        return
    kind, loadable = type(pipe), getattr(pipe, "_lora_loadable_modules", ())
    if not loadable or not hasattr(pipe, "load_lora_weights"):
        raise InputError(f"--lora {str(loras[0].path)!r}: {kind.__name__} takes no LoRA; leave it out")
    with importing("peft", "pip install peft"):
        import peft  # noqa: F401
    for lora in loras:
        if lora.expert and (SECOND not in loadable or getattr(pipe, SECOND, None) is None):
            raise InputError(f"--lora {str(lora.path)!r}{EXPERT}: {kind.__name__} has no {SECOND} that takes one")
        what = f"--lora {str(lora.path)!r} does not fit {kind.__name__}"
        with _reported(what):
            held = kind.lora_state_dict(str(lora.path.parent), weight_name=lora.path.name, **ON_DISK)
        held = held[0] if isinstance(held, tuple) else held
        if not held:
            raise InputError(f"{what}: no tensor of it is of a LoRA; give one made for it")
        strange, other = _without_place(pipe, loadable, _moved(held) if lora.expert else held)
        for said, names in (("unknown to it", strange), ("of another shape", other)):
            if names:
                some = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                raise InputError(f"{what}: tensors {said}: {len(names)} of {len(held)} ({some}); give one made for it")


def add_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Adds them to ``pipe``, each at its scale. Raises :class:`InputError` as :func:`check_loras`, and for what
    diffusers would leave out."""
    check_loras(pipe, loras)
    names = [f"lora_{i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        with _reported(f"--lora {str(lora.path)!r} does not fit {type(pipe).__name__}"):
            how = {"weight_name": lora.path.name, "adapter_name": name, **lora.into(), **ON_DISK}
            pipe.load_lora_weights(str(lora.path.parent), **how)
    if names:
        pipe.set_adapters(names, [lora.scale for lora in loras])


def _moved(held: Mapping[str, Any]) -> dict[str, Any]:
    """Names as they are in the second expert; a file is the same for both."""
    first = SECOND.partition("_")[0] + "."
    return {f"{SECOND}.{name.removeprefix(first)}": tensor for name, tensor in held.items()}


def _without_place(pipe: Any, loadable: Sequence[str], held: Any) -> tuple[list[str], list[str]]:
    """Names of tensors of modules that the pipeline has not, and of such that have another size there."""
    strange, other = list[str](), list[str]()
    for name, tensor in held.items():
        component, _, rest = name.partition(".")
        if component not in loadable:
            strange.append(name)
        elif isinstance(part := getattr(pipe, component, None), nn.Module) and component != "unet":
            module = _module(part, PARTS.sub("", rest))
            if module is None:
                strange.append(name)
            elif not _fits(module, rest, tensor) and not hasattr(pipe, GROWS):
                other.append(name)
    return strange, other


def _module(part: nn.Module, path: str) -> nn.Module | None:
    try:
        return part.get_submodule(path) if path else None
    except AttributeError:
        return None


def _fits(module: nn.Module, name: str, tensor: Any) -> bool:
    """Of linear layers alone: whether the two factors of a LoRA have the sizes of its inputs and outputs."""
    module = getattr(module, "base_layer", module)
    if not isinstance(module, nn.Linear) or tensor.ndim != 2:
        return True
    if re.search(r"lora_A|lora\.down", name):
        return bool(tensor.shape[1] == module.in_features)
    return bool(tensor.shape[0] == module.out_features) if re.search(r"lora_B|lora\.up", name) else True


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class _Remarks(logging.Handler):
    """Keeps what diffusers only warns of: tensors that it leaves out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if "keys" in text and not text.startswith("No LoRA keys"):  # for one of several parts: none is missing then
            self.said.append(text)


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Errors of the libraries, and what diffusers leaves out with a remark, as :class:`InputError`."""
    logger, remarks = logging.getLogger("diffusers"), _Remarks()
    handlers, level = logger.handlers, logger.level
    logger.handlers = [remarks]
    logger.setLevel(logging.WARNING)
    try:
        yield
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    if remarks.said:
        raise InputError(f"{what}: {remarks.said[0]}")
