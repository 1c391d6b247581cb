"""LTX-2: one list over two streams, video and audio, each with cross-attention to the text and to the other."""

from __future__ import annotations

from torch import Tensor

from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.ltx_video import conditions
from c4d.models.packed_processors import LTX2, LTX2Local, LTX2VideoToAudio


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines, [B, S, H * D] or [B, H, S, D / 2]."""
    return tuple(split(table, -2) for table in rotary)


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
                attention={
                    "attn1": LTX2,
                    "audio_attn1": LTX2Local,
                    "attn2": LTX2Local,
                    "audio_attn2": LTX2Local,
                    "audio_to_video_attn": LTX2Local,
                    "video_to_audio_attn": LTX2VideoToAudio,
                },
            ),
        ),
        exit="norm_out",
        other_exits={"audio_hidden_states": "audio_norm_out"},
        sharding=ShardingPlan(  # of the video; every rank has all of the audio
            "proj_in",
            "proj_out",
            outputs={
                "rope": tables,
                "cross_attn_rope": tables,
                "time_embed": conditions,
                "av_cross_attn_video_scale_shift": conditions,
                "av_cross_attn_video_a2v_gate": conditions,
            },
        ),
        latents=STREAMS,
        about="LTX-2, video and audio",
        known_as=("ltx-2",),
    ),
)
