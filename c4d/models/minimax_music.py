"""MiniMax-Music 3: one stream."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.packed_processors import MiniMaxH3

EXAMPLE = Example(
    "MiniMaxMusic3Transformer1DModel",
    config={
        "in_channels": 8,
        "condition_dim": 16,
        "num_layers": 3,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "ff_inner_dim": 48,
        "rotary_dim": 4,
        "fourier_embedding_dim": 16,
    },
    latents=(1, 8, 16),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([1 - t / 1000]),  # 0 is noise
        "encoder_hidden_states": noise(1, 16, 16, seed=1),
    },
)

SPECS = (
    ModelSpec(
        "MiniMaxMusic3Transformer1DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "rotary_emb"),
                sites={"attn": (Site("attn"),)},
                attention={"attn": MiniMaxH3},
                joined="last",
            ),
        ),
        exit="proj_out",
        about="MiniMax-Music 3",
        known_as=("minimax-music",),
        example=EXAMPLE,
    ),
)
