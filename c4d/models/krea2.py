"""Krea 2: one list over text and image."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grouped_processors import Krea2
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "Krea2Transformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "temb", "image_rotary_emb", "attention_mask"),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                attention={"attn": Krea2},
                joined="last",
            ),
        ),
        exit="final_layer",
        signals={Signal.TIME_PROJECTION: OutputOf("time_mod_proj", whole)},
        about="Krea 2",
        known_as=("krea-2",),
    ),
)
