"""MiniMax-H3: one packed sequence of video, audio and text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "MiniMaxH3Transformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "temb", "adaln_indices", "rotary_emb"),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedder", whole)},
        latents=("hidden_states", "audio_hidden_states"),
        about="MiniMax-H3, video and audio",
        known_as=("minimax-h3",),
    ),
)
