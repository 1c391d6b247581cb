"""LTX-2: one list over two streams, video and audio, each with cross-attention to the text and to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.examples import at, cells
from c4d.models.ltx_video import conditions
from c4d.models.packed_processors import LTX2, LTX2Local, LTX2VideoToAudio


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines, [B, S, H * D] or [B, H, S, D / 2]."""
    return tuple(split(table, -2) for table in rotary)


STREAMS = ("hidden_states", "audio_hidden_states")


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    pixels = torch.tensor([8.0, 32.0, 32.0])
    start, stop = cells(3, 2, 2) * pixels, (cells(3, 2, 2) + 1) * pixels
    video = torch.stack([start.T, stop.T], dim=-1)[None]
    seconds = 0.04 * torch.arange(5.0)
    return {
        "hidden_states": x,
        "audio_hidden_states": x[:, :5] * 0.5,
        "encoder_hidden_states": noise(1, 4, 8, seed=1),
        "audio_encoder_hidden_states": noise(1, 4, 8, seed=2),
        "timestep": at(t),
        "sigma": at(t),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "audio_encoder_attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "num_frames": 3,
        "height": 2,
        "width": 2,
        "fps": 24.0,
        "audio_num_frames": 5,
        "video_coords": torch.cat([video[:, :1] / 24, video[:, 1:]], dim=1),
        "audio_coords": torch.stack([seconds, seconds + 0.04], dim=-1)[None, None],
        "isolate_modalities": False,
        "spatio_temporal_guidance_blocks": None,
        "perturbation_mask": None,
        "use_cross_timestep": False,
        "attention_kwargs": None,
    }


EXAMPLE = Example(
    "LTX2VideoTransformer3DModel",
    config={
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "audio_in_channels": 8,
        "audio_out_channels": 8,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 16,
        "num_layers": 3,
        "caption_channels": 8,
    },
    latents=(1, 12, 8),
    arguments=arguments,
)

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
                        Site("audio_attn2", streams=("audio_hidden_states",)),
                        Site("audio_to_video_attn", by_token=False),
                        Site("video_to_audio_attn", by_token=False),
                    ),
                    "mlp": (Site("ff"), Site("audio_ff", streams=("audio_hidden_states",))),
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
        example=EXAMPLE,
    ),
)
