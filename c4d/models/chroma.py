"""Chroma: the blocks of FLUX.1, modulated by one approximator."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.flux import DUAL, grid
from c4d.models.processors import FluxSingle

SPECS = (
    ModelSpec(
        "ChromaTransformer2DModel",
        stacks=(
            DUAL,
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),)},
                attention={"attn": FluxSingle},
                joined="last",
            ),
        ),
        exit="norm_out",
        grid=grid,
        about="Chroma",
        known_as=("chroma",),
    ),
)
