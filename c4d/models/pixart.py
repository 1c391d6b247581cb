"""PixArt: one stream with cross-attention to the text."""

from __future__ import annotations

import torch

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PATCHES, at, mask, text
from c4d.models.grids import patches
from c4d.models.signals import first
from c4d.models.stream_processors import CrossAttention, SelfAttention

EXAMPLE = Example(
    "PixArtTransformer2DModel",
    config={
        **PATCHES,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "out_channels": 8,
        "num_layers": 3,
        "cross_attention_dim": 16,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": 12,
    },
    latents=LATENTS,
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": text(12),
        "encoder_attention_mask": mask(torch.long),
        "timestep": at(t).round().long(),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    },
)

SPECS = (
    ModelSpec(
        "PixArtTransformer2DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": SelfAttention, "attn2": CrossAttention},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("adaln_single", first)},
        sharding=ShardingPlan("pos_embed", "proj_out"),
        like_latents=False,
        grid=patches,
        about="PixArt-Alpha and PixArt-Sigma",
        known_as=("pixart",),
        example=EXAMPLE,
    ),
)
