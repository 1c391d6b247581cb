"""Ideogram 4: one list over text and image."""

from __future__ import annotations

import torch
from torch import nn

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.examples import PACKED, TEXT, TOKENS, at, places, text
from c4d.models.packed_processors import Ideogram4

EXAMPLE = Example(
    "Ideogram4Transformer2DModel",
    config={
        "in_channels": 8,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "adaln_dim": 16,
        "llm_features_dim": 12,
        "mrope_section": (4, 2, 2),
    },
    latents=PACKED,
    # One sequence: zeros in the place of the prompt, then the latents; the features of the prompt, then zeros.
    arguments=lambda x, t: {
        "hidden_states": nn.functional.pad(x, (0, 0, TEXT, 0)),
        "timestep": 1 - at(t, 1e-3),
        "encoder_hidden_states": nn.functional.pad(text(12), (0, 0, 0, TOKENS)),
        "position_ids": torch.cat([torch.arange(TEXT).view(-1, 1).expand(-1, 3), places().long() + 65536])[None],
        "segment_ids": torch.ones(1, TEXT + TOKENS, dtype=torch.long),
        "indicator": torch.tensor([[3] * TEXT + [2] * TOKENS]),
    },
)

SPECS = (
    ModelSpec(
        "Ideogram4Transformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attention_mask", "image_rotary_emb", "adaln_input"),
                sites={"attn": (Site("attention"),), "mlp": (Site("feed_forward"),)},
                attention={"attention": Ideogram4},
            ),
        ),
        exit="final_layer",
        about="Ideogram 4",
        known_as=("ideogram-4",),
        example=EXAMPLE,
    ),
)
