"""Models whose output is cached and whose blocks are not described, and whose forwards have names of their own.

Why the blocks of some classes of diffusers are not described: those of a U-Net are no chain of one stream, and
Transformer2DModel is a part of such; those of RFD4 Proteina run several times in a forward; those of Spectrogram
Diffusion return their stream in a tuple of one; and the forwards that fill the cache of AnyFlow FAR reach no exit.
"""

from __future__ import annotations

from c4d.core.spec import ModelSpec

SPECS = (
    ModelSpec(
        "RFD4ProteinaTransformer",
        latents=("bb_ca", "local_latents"),
        timestep="bb_ca_time",
        like_latents=False,
        about="RFD4 Proteina: its output alone",
    ),
    ModelSpec(
        "T5FilmDecoder",
        latents="decoder_input_tokens",
        timestep="decoder_noise_time",
        about="Spectrogram Diffusion: its output alone",
    ),
)
