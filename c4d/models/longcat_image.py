"""LongCat-Image: dual-stream blocks, then single-stream ones, as in FLUX.1."""

from __future__ import annotations

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf
from c4d.core.types import Signal
from c4d.models.examples import PACKED, TEXT, TWO_HEADS, TWO_STREAMS, at, diagonal, places, text
from c4d.models.flux import DUAL, SINGLE, SPREAD, grid
from c4d.models.signals import whole

EXAMPLE = Example(
    "LongCatImageTransformer2DModel",
    config={**TWO_STREAMS, **TWO_HEADS, "pooled_projection_dim": 16, "axes_dims_rope": [2, 2, 4]},
    latents=PACKED,
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "guidance": None,
        "encoder_hidden_states": text(16),
        "txt_ids": diagonal(),
        "img_ids": places(frame=1, start=TEXT),
    },
)

SPECS = (
    ModelSpec(
        "LongCatImageTransformer2DModel",
        stacks=(DUAL, SINGLE),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embed", whole)},
        sharding=SPREAD,
        grid=grid,
        about="LongCat-Image, and its editing",
        known_as=("longcat-image",),
        example=EXAMPLE,
    ),
)
