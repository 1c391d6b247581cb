"""OmniGen: one sequence of text, images and latents through a language model."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.packed_processors import OmniGen

SPECS = (
    ModelSpec(
        "OmniGenTransformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states",),
                sites={"attn": (Site("self_attn"),), "mlp": (Site("mlp"),)},
                attention={"self_attn": OmniGen},
            ),
        ),
        exit="norm",
        about="OmniGen",
        known_as=("omnigen",),
    ),
)
