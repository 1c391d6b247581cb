"""Helios: one stream over the history and the latents, with cross-attention to the text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.stream_processors import Helios, HeliosCross

SPECS = (
    ModelSpec(
        "HeliosTransformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "rotary_emb", "original_context_length"),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ffn"),)},
                attention={"attn1": Helios, "attn2": HeliosCross},
            ),
        ),
        exit="norm_out",
        about="Helios",
        known_as=("helios",),
    ),
)
