"""Hunyuan-DiT: one stream with cross-attention, and long skips from the first blocks to the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PATCHES, TEXT, TOKENS, at, mask, text
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.signals import whole
from c4d.models.stream_processors import CrossAttention, SelfAttention


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    angles = 3 * noise(TOKENS, 4, seed=13).repeat_interleave(2, 1)  # a pair of neighbours has one
    return {
        "hidden_states": x,
        "timestep": at(t).round(),
        "encoder_hidden_states": text(12),
        "text_embedding_mask": mask(torch.long),
        "encoder_hidden_states_t5": text(8),
        "text_embedding_mask_t5": mask(torch.long),
        "image_meta_size": torch.tensor([[64.0, 64.0, 64.0, 64.0, 0.0, 0.0]]),
        "style": torch.tensor([0]),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }


EXAMPLE = Example(
    "HunyuanDiT2DModel",
    config={
        **PATCHES,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "hidden_size": 16,
        "num_layers": 4,
        "mlp_ratio": 2.0,
        "cross_attention_dim": 12,
        "cross_attention_dim_t5": 8,
        "pooled_projection_dim": 6,
        "text_len": TEXT,
        "text_len_t5": TEXT,
    },
    latents=LATENTS,
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "HunyuanDiT2DModel",
        conditional="last",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2", by_token=False),), "mlp": (Site("ff"),)},
                attention={"attn1": SelfAttention, "attn2": CrossAttention},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_extra_emb", whole)},
        sharding=ShardingPlan("pos_embed", "proj_out", arguments={"blocks": {"image_rotary_emb": tables}}),
        like_latents=False,
        long_skips=True,
        grid=patches,
        about="Hunyuan-DiT",
        known_as=("hunyuan-dit",),
        example=EXAMPLE,
    ),
)
