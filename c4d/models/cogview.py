"""CogView: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
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
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_condition_embed", whole)},
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
            ),
        ),
        exit="norm_out",
        grid=patches,
        about="CogView 4",
        known_as=("cogview4",),
    ),
)
