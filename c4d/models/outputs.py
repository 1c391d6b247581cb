"""Models whose output is cached and whose blocks are not described, and whose forwards have names of their own."""

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
