"""Stable Diffusion 3 and 3.5: dual-stream blocks, of which the last returns no text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack, sequence
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.joint_processors import HunyuanVideoDual
from c4d.models.signals import whole
from c4d.models.stream_processors import SelfAttention

SPECS = (
    ModelSpec(
        "SD3Transformer2DModel",
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
    ),
)
