"""CogView: dual-stream blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example
from c4d.core.spec import STREAM, TEXT_STREAM, ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PATCHES, at, text
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import CogVideoX, CogView4
from c4d.models.signals import whole


def arguments(x: Tensor, t: float) -> dict[str, Any]:
    return {
        "hidden_states": x,
        "encoder_hidden_states": text(12),
        "timestep": at(t),
        "original_size": torch.tensor([[64.0, 64.0]]),
        "target_size": torch.tensor([[64.0, 64.0]]),
        "crop_coords": torch.tensor([[0.0, 0.0]]),
    }


EXAMPLE = Example(
    "CogView3PlusTransformer2DModel",
    config={
        **PATCHES,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "out_channels": 4,
        "text_embed_dim": 12,
        "time_embed_dim": 16,
        "condition_dim": 8,
        "pos_embed_max_size": 8,
    },
    latents=LATENTS,
    arguments=lambda x, t: {**arguments(x, t), "timestep": at(t).round().long()},
)

EXAMPLE_4 = Example(
    "CogView4Transformer2DModel",
    config={
        **PATCHES,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "out_channels": 4,
        "text_embed_dim": 12,
        "time_embed_dim": 16,
        "condition_dim": 8,
        "pos_embed_max_size": 8,
        "rope_axes_dim": (16, 16),
    },
    latents=LATENTS,
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "CogView3PlusTransformer2DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff", streams=(TEXT_STREAM, STREAM)),)},
                attention={"attn1": CogVideoX},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_condition_embed", whole)},
        sharding=ShardingPlan("transformer_blocks", "proj_out"),
        grid=patches,
        about="CogView 3 Plus",
        known_as=("cogview3",),
        example=EXAMPLE,
    ),
    ModelSpec(
        "CogView4Transformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "encoder_hidden_states",
                    "temb",
                    "image_rotary_emb",
                    "attention_mask",
                    "attention_kwargs",
                ),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),)},
                attention={"attn1": CogView4},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan("transformer_blocks", "proj_out", outputs={"rope": tables}),
        grid=patches,
        about="CogView 4",
        known_as=("cogview4",),
        example=EXAMPLE_4,
    ),
)
