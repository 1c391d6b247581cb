"""Ideogram 4: one list over text and image."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.packed_processors import Ideogram4

SPECS = (
    ModelSpec(
        "Ideogram4Transformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attention_mask", "image_rotary_emb", "adaln_input"),
                sites={"attn": (Site("attention"),), "mlp": (Site("feed_forward"),)},
                attention={"attention": Ideogram4},
            ),
        ),
        exit="final_layer",
        about="Ideogram 4",
        known_as=("ideogram-4",),
    ),
)
