"""CogVideoX: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import CogVideoX
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "CogVideoXTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
                attention={"attn1": CogVideoX},
            ),
        ),
        exit="norm_final",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        sharding=ShardingPlan(  # one module makes text and video tokens
            "transformer_blocks", "proj_out", arguments={"transformer_blocks": {"image_rotary_emb": tables}}
        ),
        about="CogVideoX and CogVideoX 1.5",
        known_as=("cogvideox",),
    ),
)
