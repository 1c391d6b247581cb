"""Cosmos: one stream with cross-attention to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack, sequence
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.stream_processors import Cosmos, CosmosCross


def condition(embedded: Tensor, split: Split) -> Tensor:
    """Timesteps of each frame go with its tokens, [B, S, C]; one of a sample stays, [B, C]."""
    return split(embedded, 1) if embedded.ndim == 3 else embedded


CONDITIONS = {"embedded_timestep": condition, "temb": condition}


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    """Of Cosmos 2.5: a timestep a frame, 1..0, and a mask of the frames that are given (here none)."""
    batch, _, frames, height, width = x.shape
    return {
        "hidden_states": x,
        "condition_mask": x.new_zeros(batch, 1, frames, height, width),
        "timestep": torch.full((batch, 1, frames, 1, 1), t / 1000),
        "encoder_hidden_states": noise(1, 5, 12, seed=1),
        "padding_mask": x.new_zeros(1, 1, 8 * height, 8 * width),
    }


EXAMPLE = Example(
    "CosmosTransformer3DModel",
    config={
        "in_channels": 5,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "adaln_lora_dim": 4,
        "max_size": (8, 16, 16),
        "concat_padding_mask": False,  # that takes torchvision
        "extra_pos_embed_type": None,
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": 12,
        "encoder_hidden_states_channels": 8,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "CosmosTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "encoder_hidden_states",
                    "embedded_timestep",
                    "temb",
                    "image_rotary_emb",
                    "extra_pos_emb",
                    "attention_mask",
                    "controlnet_residual",
                ),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": Cosmos, "attn2": CosmosCross},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "transformer_blocks",
            "proj_out",
            outputs={"rope": tables},
            arguments={
                "transformer_blocks": {**CONDITIONS, "extra_pos_emb": sequence, "controlnet_residual": sequence},
                "norm_out": CONDITIONS,
            },
        ),
        grid=patches,
        about="Cosmos 1, Predict 2 and 2.5",
        known_as=("cosmos",),
        example=EXAMPLE,
    ),
)
