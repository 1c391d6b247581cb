"""AuraFlow: dual-stream blocks, then single-stream ones over text and image as one sequence."""

from __future__ import annotations

from dataclasses import replace

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import DUAL
from c4d.models.grids import patches
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "AuraFlowTransformer2DModel",
        stacks=(
            replace(DUAL, path="joint_transformer_blocks", attention={}),
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_step_proj", whole)},
        grid=patches,
        about="AuraFlow",
        known_as=("auraflow",),
    ),
)
