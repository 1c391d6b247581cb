"""Mochi: dual-stream blocks, of which the last returns no text."""

from __future__ import annotations

from c4d.core.spec import AtEntry, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import first, modulated_by_temb

SPECS = (
    ModelSpec(
        "MochiTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_embed", first),
            Signal.MODULATED_INPUT: AtEntry(modulated_by_temb),
        },
        grid=patches,
        about="Mochi 1",
        known_as=("mochi",),
    ),
)
