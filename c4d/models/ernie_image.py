"""ERNIE-Image: one list over image and text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.packed_processors import ErnieImage

SPECS = (
    ModelSpec(
        "ErnieImageTransformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "rotary_pos_emb", "temb", "attention_mask"),
                sites={"mlp": (Site("mlp"),)},
                attention={"self_attention": ErnieImage},
            ),
        ),
        exit="final_norm",
        about="ERNIE-Image",
        known_as=("ernie-image",),
    ),
)
