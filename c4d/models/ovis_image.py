"""Ovis-Image: dual-stream blocks, then single-stream ones, as in FLUX.1."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import grid
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "OvisImageTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("encoder_hidden_states", "hidden_states"),
                sites={
                    "attn": (Site("attn"),),
                    "mlp": (
                        Site("ff"),
                        Site("ff_context"),
                    ),
                },
            ),
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                returns=("encoder_hidden_states", "hidden_states"),
                sites={"attn": (Site("attn"),)},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("timestep_embedder", whole)},
        grid=grid,
        about="Ovis-Image",
        known_as=("ovis-image",),
    ),
)
