"""Loading a pipeline, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from c4d.backends import Backend
from c4d.backends.kernels import names
from c4d.bundled.models import BUNDLED
from c4d.pipelines.directory import USUAL, Files, components, has_variant, locate
from c4d.pipelines.errors import InputError
from c4d.pipelines.lora import Lora, add_loras
from c4d.pipelines.modes import place
from c4d.pipelines.quiet import quiet
from c4d.pipelines.skeleton import AGAIN, TRANSFORMERS, base_pipeline, listed, skeleton

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def parse_dtype(text: str, what: str = "dtype", backend: Backend | None = None) -> torch.dtype:
    """The dtype of that name; :class:`InputError` for another one, and for one that ``backend`` does not compute in."""
    text = SHORT.get(text, text)
    if text not in DTYPES:
        raise InputError(f"unknown {what} {text!r}: known are {', '.join(DTYPES)}")
    if backend is not None and DTYPES[text] not in backend.dtypes:
        able = f"backend {backend.name!r} computes in {names(backend.dtypes)}"
        raise InputError(f"{what} {text!r}: {able}; take one of these, or another --backend")
    return DTYPES[text]


def parse_history_dtype(text: str, backend: Backend | None = None) -> torch.dtype:
    """As :func:`parse_dtype`, of what a cache keeps: also ``int8``, with scales."""
    if text == "int8":
        return torch.int8
    try:
        return parse_dtype(text, "dtype of the history", backend)
    except InputError as error:
        raise InputError(f"{error}; or int8, with a scale for each token") from error


def load_pipeline(
    model: str,
    *,
    backend: Backend,
    dtype: str | torch.dtype | None = None,
    progress: bool = False,
    allow_pickle: bool = False,
    memory: str | None = "full",
    files: Files = USUAL,
    loras: Sequence[Lora] = (),
) -> Any:
    """A diffusers pipeline on the backend's device.

    Args:
        model: as in :func:`locate`.
        dtype: of the weights, as text or torch's; None is the backend's default. The video decoder of Wan always stays
            in float32, as its authors run it.
        progress: show the bars of the libraries that load (not for a bundled model, which takes no time).
        allow_pickle: read pickled weights where there are no others (tensors alone, as ``torch.load`` restricts them).
        memory: a mode, as :func:`c4d.memory` takes it; ``full`` is beside it if it does not say where weights are. None
            leaves them on the host.
        files: which files of the model are read.
        loras: added to its weights, each at its scale.

    Raises:
        InputError: as :func:`skeleton`, for a memory mode that this model or device cannot do, a LoRA that does not
            fit, and for weights or a tokenizer that cannot be loaded or leave something random.
        CannotImportError: as :func:`skeleton`.
    """
    weights = parse_dtype(dtype, backend=backend) if isinstance(dtype, str) else dtype or backend.default_dtype
    source, local = locate(model)
    files.check(model, local=local)
    base = base_pipeline()
    safe = None if allow_pickle else True  # what diffusers calls both
    theirs = model not in BUNDLED
    with quiet(bars=progress and theirs, remarks=theirs), _as_input_errors(f"model {model!r} cannot be loaded"):
        if not local:
            kind = "with its weights" if allow_pickle else "with weights in safetensors (pickles need --allow-pickle)"
            with _as_input_errors(f"model {model!r} cannot be downloaded {kind}"):
                chosen = {name: value for name, value in asdict(files).items() if value}
                source = base.download(source, use_safetensors=safe, **chosen)
        skeleton(source, allow_pickle=allow_pickle, files=replace(files, revision=None))
        index = base.load_config(source)
        kinds = dtypes(components(index).get("vae", ("", ""))[1], weights)
        read = _from_transformers(Path(source), components(index), weights, safe, files.variant)
        pipe = base.from_pretrained(source, dtype=kinds, use_safetensors=safe, variant=files.variant, **read)
        add_loras(pipe, loras)
    if memory is not None:
        place(pipe, memory, backend=backend)
    return pipe


def dtypes(decoder: str, weights: torch.dtype) -> dict[str, torch.dtype]:
    """Of the components, by name or "default", where the VAE is of the class ``decoder``."""
    kinds = {"default": weights}
    return {**kinds, "vae": torch.float32} if decoder == "AutoencoderKLWan" else kinds


def _from_transformers(
    folder: Path, named: Mapping[str, tuple[str, str]], weights: torch.dtype, safe: bool | None, variant: str | None
) -> dict[str, Any]:
    """The components of transformers, those without weights first; diffusers would not say what is missing."""
    import transformers

    classes = {name: getattr(transformers, cls) for name, (library, cls) in named.items() if library == "transformers"}
    made = {}
    for name, cls in sorted(classes.items(), key=lambda item: issubclass(item[1], nn.Module)):
        with _as_input_errors(f"the {name} in {str(folder)!r} cannot be loaded"):
            if not issubclass(cls, nn.Module):
                made[name] = cls.from_pretrained(folder / name, local_files_only=True)
                continue
            made[name], info = cls.from_pretrained(
                folder / name,
                dtype=weights,
                use_safetensors=safe,
                variant=variant if has_variant(folder / name, variant) else None,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # to be told which, here
                output_loading_info=True,
            )
            other = [f"{key} {tuple(held)} for {tuple(wanted)}" for key, held, wanted in info["mismatched_keys"]]
            for said, names in (("missing", info["missing_keys"]), ("of another shape", other)):
                if names:
                    raise ValueError(listed(said, sorted(names)))
    return made


@contextmanager
def _as_input_errors(what: str) -> Iterator[None]:
    """Libraries raise whatever a broken file leads them to."""
    try:
        yield
    except (InputError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{what}: {reason or type(error).__name__}; {AGAIN}") from error


def compile_blocks(pipe: Any) -> list[str]:
    """Compiles the repeated blocks of every transformer, one graph each; returns a line about each transformer."""
    lines = []
    for name in TRANSFORMERS:
        if (transformer := getattr(pipe, name, None)) is not None:
            transformer.compile_repeated_blocks(fullgraph=True)
            lines.append(f"{name}: {', '.join(transformer._repeated_blocks)} compiled (fullgraph), at first use")
    return lines
