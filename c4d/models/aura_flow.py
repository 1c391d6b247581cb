"""AuraFlow: dual-stream blocks, then single-stream ones over text and image as one sequence."""

from __future__ import annotations

from dataclasses import replace

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PATCHES, at, text
from c4d.models.flux import DUAL
from c4d.models.grids import patches
from c4d.models.signals import whole
from c4d.models.stream_processors import SelfAttention

EXAMPLE = Example(
    "AuraFlowTransformer2DModel",
    config={
        **PATCHES,
        "num_mmdit_layers": 2,
        "num_single_dit_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "out_channels": 4,
        "pos_embed_max_size": 16,
    },
    latents=LATENTS,
    arguments=lambda x, t: {"hidden_states": x, "encoder_hidden_states": text(12), "timestep": at(t, 1e-3)},
)

SPECS = (
    ModelSpec(
        "AuraFlowTransformer2DModel",
        conditional="last",
        stacks=(
            replace(DUAL, path="joint_transformer_blocks"),
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                attention={"attn": SelfAttention},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_step_proj", whole)},
        sharding=ShardingPlan("pos_embed", "proj_out"),
        grid=patches,
        about="AuraFlow",
        known_as=("auraflow",),
        example=EXAMPLE,
    ),
)
