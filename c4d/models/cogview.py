"""CogView: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import CogVideoX, CogView4
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "CogView3PlusTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
                attention={"attn1": CogVideoX},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_condition_embed", whole)},
        sharding=ShardingPlan("transformer_blocks", "proj_out"),
        grid=patches,
        about="CogView 3 Plus",
        known_as=("cogview3",),
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
    ),
)
