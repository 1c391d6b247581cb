"""Batches in slices."""

from __future__ import annotations

from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, mode, nothing_more


def _lacking(pipe: Any, backend: Backend) -> str | None:
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return "there is no VAE in this pipeline: leave sliced out"
    return None if hasattr(vae, "use_slicing") else f"{type(vae).__name__} has no slicing: leave sliced out"


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.vae.enable_slicing()


@mode("sliced", Kind.DECODER, "to the rounding of another batch size")
def sliced() -> Part:
    """The VAE works on the samples of a batch one at a time: diffusers' ``enable_slicing``."""
    return Part(_apply, _lacking, holds=nothing_more)
