"""The denoisers of images whose blocks no spec describes."""

from __future__ import annotations

from c4d.core.example import Example as Denoiser
from c4d.models import pixart

ENTRIES: tuple[Denoiser, ...] = (
    Denoiser(
        name="Transformer2DModel",  # as PixArt used it before it had its own class
        config=pixart.EXAMPLE.config,
        latents=pixart.EXAMPLE.latents,
        arguments=pixart.EXAMPLE.arguments,
    ),
)

NOT_DENOISERS: dict[str, str] = {
    "DreamLiteTransformer2DModel": "It is a part of DreamLiteUNetModel, and gets no timestep there.",
    "UVit2DModel": "It takes ids of tokens and gives logits for the masked ones, and it takes no timestep.",
}
