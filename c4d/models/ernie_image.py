"""ERNIE-Image: one list over image and text."""

from __future__ import annotations

import torch

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.examples import SIDE, TEXT, at, stir, text
from c4d.models.packed_processors import ErnieImage

EXAMPLE = Example(
    "ErnieImageTransformer2DModel",
    config={
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_layers": 3,
        "ffn_hidden_size": 24,
        "in_channels": 8,
        "out_channels": 8,
        "patch_size": 1,
        "text_in_dim": 12,
        "rope_axes_dim": (2, 2, 4),
    },
    latents=(1, 8, SIDE, SIDE),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "text_bth": text(12),
        "text_lens": torch.tensor([TEXT]),
    },
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "ErnieImageTransformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "rotary_pos_emb", "temb", "attention_mask"),
                sites={"mlp": (Site("mlp"),)},
                attention={"self_attention": ErnieImage},
            ),
        ),
        exit="final_norm",
        batch_first=False,
        about="ERNIE-Image",
        known_as=("ernie-image",),
        example=EXAMPLE,
    ),
)
