"""AuraFlow: dual-stream blocks, then single-stream ones over text and image as one sequence."""

from __future__ import annotations

from dataclasses import replace

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import DUAL
from c4d.models.grids import patches
from c4d.models.signals import whole
from c4d.models.stream_processors import SelfAttention

SPECS = (
    ModelSpec(
        "AuraFlowTransformer2DModel",
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
    ),
)
