"""Stable Audio: one stream with cross-attention to the text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.audio_processors import StableAudio, StableAudio3, StableAudio3Cross, StableAudioCross

SPECS = (
    ModelSpec(
        "StableAudioDiTModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": StableAudio, "attn2": StableAudioCross},
            ),
        ),
        exit="proj_out",
        about="Stable Audio Open",
        known_as=("stable-audio-open",),
    ),
    ModelSpec(
        "StableAudio3DiTModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("self_attn"),), "cross_attn": (Site("cross_attn"),), "mlp": (Site("ff"),)},
                attention={"self_attn": StableAudio3, "cross_attn": StableAudio3Cross},
                joined="last",
            ),
        ),
        exit="proj_out",
        about="Stable Audio 3",
        known_as=("stable-audio-3",),
    ),
)
