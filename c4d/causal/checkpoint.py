"""Weights of distilled causal models as their authors publish them, on the names that diffusers has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("generator_ema", "generator")  # as Self-Forcing (arXiv 2506.08009) and CausVid (2412.07772) call them
WRAPPERS = re.compile(r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|module)\.")  # of training, anywhere
PREFIX = "model."  # the transformer in the wrapper that samples
MOST = 5  # keys that an error names


class CheckpointError(ValueError):
    """A file that does not hold the weights of this transformer."""


@dataclass(frozen=True)
class Loaded:
    """What became of every key of a file: ``taken`` as ``part``, or ``left`` because the transformer has no such.

    ``parts``: what the file has, the other one of which was not read.
    """

    path: Path
    part: str | None
    parts: tuple[str, ...]
    taken: Mapping[str, str]  # the file's name -> diffusers'
    left: tuple[str, ...]

    def lines(self) -> list[str]:
        """In words."""
        of = f"{self.part} of {self.path}" if self.part else str(self.path)
        said = [f"{len(self.taken)} tensors of {of} loaded"]
        others = [part for part in self.parts if part != self.part]
        said += [f"not read: {', '.join(others)}"] if others else []
        said += [f"left out, for the transformer has no such: {', '.join(self.left)}"] if self.left else []
        return said


def load_checkpoint(transformer: nn.Module, path: str | Path, part: str | None = None) -> Loaded:
    """Loads the weights in ``path`` (.safetensors, or a pickle of tensors alone) into a Wan transformer, all of them.

    Args:
        transformer: of diffusers; its dtype and device stay.
        path: a file with ``generator`` or ``generator_ema`` in it, under the names of Wan or of diffusers, or with the
            weights alone.
        part: which of both; None: ``generator_ema``, else ``generator``.

    Raises:
        CheckpointError: no such file or part, a weight that is missing or of another shape.
    """
    path = Path(path)
    held = _read(path)
    parts = tuple(name for name in PARTS if isinstance(held.get(name), Mapping))
    if part is not None and part not in parts:
        raise CheckpointError(f"{str(path)!r} has no part {part!r}; it has {', '.join(parts) or 'the weights alone'}")
    chosen = part or (parts[0] if parts else None)
    found = {key: x for key, x in (held[chosen] if chosen else held).items() if isinstance(x, Tensor)}
    plain = {_plain(key): key for key in found}
    state, names = _renamed({name: found[key] for name, key in plain.items()})
    wanted = transformer.state_dict()
    missing = [name for name in wanted if name not in state]
    other = [
        f"{name} {list(state[name].shape)} for {list(x.shape)}"
        for name, x in wanted.items()
        if name in state and state[name].shape != x.shape
    ]
    for what, keys in (("is without", missing), ("has another shape of", other)):
        if keys:
            more = f" and {len(keys) - MOST} more" if len(keys) > MOST else ""
            raise CheckpointError(
                f"{str(path)!r} {what} {', '.join(keys[:MOST])}{more}: it is no checkpoint of this "
                f"{type(transformer).__name__}"
            )
    transformer.load_state_dict({name: state[name] for name in wanted})
    taken = {plain[old]: new for old, new in names.items() if new in wanted}
    return Loaded(path, chosen, parts, taken, tuple(plain[old] for old, new in names.items() if new not in wanted))


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is no file; name the checkpoint of a distilled model")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of whatever is wrong with the file
        raise CheckpointError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{str(path)!r} holds {type(held).__name__}, no tensors by name")
    return held


def _plain(key: str) -> str:
    return WRAPPERS.sub("", key).removeprefix(PREFIX)


def _renamed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """On diffusers' names; and which became which."""
    if any(".attn1." in name for name in state):
        return state, {name: name for name in state}
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    made: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name, x in state.items():  # one by one: it does not tell which became which
        for new, value in convert_wan_transformer_to_diffusers({name: x}).items():
            made[new], names[name] = value, new
    return made, names
