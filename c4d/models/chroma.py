"""Chroma: the blocks of FLUX.1, modulated by one approximator."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.flux import grid

SPECS = (
    ModelSpec(
        "ChromaTransformer2DModel",
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
                "single_transformer_blocks", takes=("hidden_states",), sites={"attn": (Site("attn"),)}, joined="last"
            ),
        ),
        exit="norm_out",
        grid=grid,
        about="Chroma",
        known_as=("chroma",),
    ),
)
