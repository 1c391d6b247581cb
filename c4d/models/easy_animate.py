"""EasyAnimate: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import EasyAnimate
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "EasyAnimateTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),)},
                attention={"attn1": EasyAnimate},
            ),
        ),
        exit="norm_final",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        sharding=ShardingPlan("transformer_blocks", "proj_out", outputs={"rope_embedding": tables}),
        grid=patches,
        about="EasyAnimate 5.1",
        known_as=("easyanimate",),
    ),
)
