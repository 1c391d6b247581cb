"""Krea 2: one list over text and image."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import PACKED, TEXT, at, mask, places, stir
from c4d.models.grouped_processors import Krea2
from c4d.models.signals import whole

EXAMPLE = Example(
    "Krea2Transformer2DModel",
    config={
        "in_channels": 8,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "timestep_embed_dim": 16,
        "text_hidden_dim": 12,
        "num_text_layers": 2,
        "text_num_attention_heads": 2,
        "text_num_key_value_heads": 2,
        "text_intermediate_size": 16,
        "num_layerwise_text_blocks": 1,
        "num_refiner_text_blocks": 1,
        "axes_dims_rope": (2, 2, 4),
    },
    latents=PACKED,
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, TEXT, 2, 12, seed=11),  # two layers of the text encoder
        "timestep": at(t, 1e-3),
        "position_ids": torch.cat([torch.zeros(TEXT, 3), places()]),
        "encoder_attention_mask": mask(),
    },
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "Krea2Transformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "temb", "image_rotary_emb", "attention_mask"),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                attention={"attn": Krea2},
                joined="last",
            ),
        ),
        exit="final_layer",
        signals={Signal.TIME_PROJECTION: OutputOf("time_mod_proj", whole)},
        about="Krea 2",
        known_as=("krea-2",),
        example=EXAMPLE,
    ),
)
