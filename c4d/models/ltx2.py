"""LTX-2: one list over two streams, video and audio, each with cross-attention to the text and to the other."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack

STREAMS = ("hidden_states", "audio_hidden_states")

SPECS = (
    ModelSpec(
        "LTX2VideoTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=STREAMS,
                returns=STREAMS,
                sites={
                    "attn": (Site("attn1"), Site("audio_attn1")),
                    "cross_attn": (
                        Site("attn2"),
                        Site("audio_attn2"),
                        Site("audio_to_video_attn"),
                        Site("video_to_audio_attn"),
                    ),
                    "mlp": (Site("ff"), Site("audio_ff")),
                },
            ),
        ),
        exit="norm_out",
        other_exits={"audio_hidden_states": "audio_norm_out"},
        latents=STREAMS,
        about="LTX-2, video and audio",
        known_as=("ltx-2",),
    ),
)
