"""Chroma: the blocks of FLUX.1, modulated by one approximator."""

from __future__ import annotations

import torch

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.examples import PACKED, TEXT, TOKENS, TWO_HEADS, TWO_STREAMS, at, places, text
from c4d.models.flux import DUAL, grid
from c4d.models.processors import FluxSingle

EXAMPLE = Example(
    "ChromaTransformer2DModel",
    config={
        **TWO_STREAMS,
        **TWO_HEADS,
        "axes_dims_rope": (2, 2, 4),
        "approximator_num_channels": 16,
        "approximator_hidden_dim": 24,
        "approximator_layers": 2,
    },
    latents=PACKED,
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "encoder_hidden_states": text(16),
        "txt_ids": torch.zeros(TEXT, 3),
        "img_ids": places(),
        "attention_mask": torch.ones(1, TEXT + TOKENS),
    },
)

SPECS = (
    ModelSpec(
        "ChromaTransformer2DModel",
        stacks=(
            DUAL,
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),)},
                attention={"attn": FluxSingle},
                joined="last",
            ),
        ),
        exit="norm_out",
        grid=grid,
        about="Chroma",
        known_as=("chroma",),
        example=EXAMPLE,
    ),
)
