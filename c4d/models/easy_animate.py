"""EasyAnimate: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "EasyAnimateTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),)},
            ),
        ),
        exit="norm_final",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        grid=patches,
        about="EasyAnimate 5.1",
        known_as=("easyanimate",),
    ),
)
