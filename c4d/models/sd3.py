"""Stable Diffusion 3 and 3.5: dual-stream blocks, of which the last returns no text."""

from __future__ import annotations

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack, sequence
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PATCHES, at, text
from c4d.models.grids import patches
from c4d.models.joint_processors import HunyuanVideoDual
from c4d.models.signals import whole
from c4d.models.stream_processors import SelfAttention

EXAMPLE = Example(
    "SD3Transformer2DModel",
    config={
        **PATCHES,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 6,
        "out_channels": 4,
        "pos_embed_max_size": 8,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    latents=LATENTS,
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": text(12),
        "pooled_projections": noise(1, 6, seed=14),
    },
)

SPECS = (
    ModelSpec(
        "SD3Transformer2DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("encoder_hidden_states", "hidden_states"),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                attention={"attn": HunyuanVideoDual, "attn2": SelfAttention},  # the second in some blocks of 3.5
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_text_embed", whole)},
        sharding=ShardingPlan("pos_embed", "proj_out", arguments={"": {"block_controlnet_hidden_states": sequence}}),
        grid=patches,
        about="Stable Diffusion 3 and 3.5",
        known_as=("sd3", "stable-diffusion-3"),
        example=EXAMPLE,
    ),
)
