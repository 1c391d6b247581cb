"""Cosmos 3: a tower that reads and one that generates, which meet in the attention of every layer."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.grouped_processors import Cosmos3

SPECS = (
    ModelSpec(
        "Cosmos3OmniTransformer",
        stacks=(
            Stack(
                "layers",
                takes=("encoder_hidden_states", "hidden_states", "rotary_emb"),
                returns=("encoder_hidden_states", "hidden_states"),
                sites={"attn": (Site("self_attn"),), "mlp": (Site("mlp"), Site("mlp_moe_gen"))},
                attention={"self_attn": Cosmos3},
            ),
        ),
        exit="norm_moe_gen",  # what the other tower returns is no part of any prediction
        latents=("vision_tokens", "sound_tokens"),
        timestep="vision_timesteps",
        about="Cosmos 3, video, and sound if it is asked for",
        known_as=("cosmos-3",),
    ),
)
