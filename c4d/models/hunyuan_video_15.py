"""HunyuanVideo 1.5: dual-stream blocks alone."""

from __future__ import annotations

from c4d.core.spec import AtEntry, ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import modulated_input
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import HunyuanVideo15
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "HunyuanVideo15Transformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "freqs_cis"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={
                    "attn": (Site("attn"),),
                    "mlp": (
                        Site("ff"),
                        Site("ff_context"),
                    ),
                },
                attention={"attn": HunyuanVideo15},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_embed", whole),
            Signal.MODULATED_INPUT: AtEntry(modulated_input),
        },
        sharding=ShardingPlan("x_embedder", "proj_out", outputs={"rope": tables}),
        grid=patches,
        about="HunyuanVideo 1.5, text and image to video",
        known_as=("hunyuanvideo-1.5",),
    ),
)
