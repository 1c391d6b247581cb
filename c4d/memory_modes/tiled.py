"""Pictures in tiles."""

from __future__ import annotations

from typing import Any

from c4d.backends import Backend
from c4d.memory_modes.mode import Kind, Part, mode, nothing_more


def _lacking(pipe: Any, backend: Backend) -> str | None:
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return "there is no VAE in this pipeline: leave tiled out"
    return None if hasattr(vae, "use_tiling") else f"{type(vae).__name__} has no tiling: leave tiled out"


def _apply(pipe: Any, backend: Backend) -> None:
    pipe.vae.enable_tiling()


@mode("tiled", Kind.DECODER, "but for seams: tiles overlap and are blended, where a picture is larger than one")
def tiled() -> Part:
    """The VAE works on tiles of a picture or clip, one at a time: diffusers' ``enable_tiling``, with its sizes."""
    return Part(_apply, _lacking, holds=nothing_more)
