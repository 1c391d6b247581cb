"""FLUX.2: dual-stream blocks, then single-stream ones over text and image as one sequence."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import DUAL, SINGLE, grid, tables
from c4d.models.processors import Flux2Single
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "Flux2Transformer2DModel",
        stacks=(
            DUAL,
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),)},
                attention={"attn": Flux2Single},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_guidance_embed", whole)},
        sharding=ShardingPlan(
            "x_embedder",
            "proj_out",
            # Text and image have tables of their own, which the forward joins.
            arguments={stack: {"image_rotary_emb": tables} for stack in (DUAL.path, SINGLE.path)},
        ),
        grid=grid,
        about="FLUX.2 dev and Klein",
        known_as=("flux.2",),
    ),
)
