"""Bria Fibo 1: dual-stream and single-stream blocks; each gets a layer of the text encoder as half of its text."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import DUAL, grid
from c4d.models.processors import FluxSingle
from c4d.models.signals import copied

EXAMPLE = Example(
    "BriaFiboTransformer2DModel",
    config={
        "patch_size": 1,
        "in_channels": 8,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "axes_dims_rope": [2, 2, 4],
        "text_encoder_dim": 12,
        "guidance_embeds": True,
    },
    latents=(1, 16, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([t]),
        "encoder_hidden_states": noise(1, 5, 16, seed=11),
        "text_encoder_layers": [noise(1, 5, 12, seed=12 + block) for block in range(4)],
        "joint_attention_kwargs": {},
        "txt_ids": torch.zeros(5, 3),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "guidance": torch.tensor([5.0]),
    },
)

SPECS = (
    ModelSpec(
        "BriaFiboTransformer2DModel",
        conditional="last",
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
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embed", copied)},
        grid=grid,
        about="Bria Fibo 1",
        known_as=("bria-fibo",),
        example=EXAMPLE,
    ),
)
