"""MiniMax-Music 3: one stream."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.packed_processors import MiniMaxH3

SPECS = (
    ModelSpec(
        "MiniMaxMusic3Transformer1DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "rotary_emb"),
                sites={"attn": (Site("attn"),)},
                attention={"attn": MiniMaxH3},
                joined="last",
            ),
        ),
        exit="proj_out",
        about="MiniMax-Music 3",
        known_as=("minimax-music",),
    ),
)
