"""CogVideoX: dual-stream blocks."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "CogVideoXTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
            ),
        ),
        exit="norm_final",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        about="CogVideoX and CogVideoX 1.5",
        known_as=("cogvideox",),
    ),
)
