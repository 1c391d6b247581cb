"""Kandinsky 6: video and its sound in one list of blocks, each with a text in blocks of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, noise
from c4d.core.spec import STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.kandinsky5 import box, fill
from c4d.models.signals import whole


def conditioned(x: Tensor) -> Tensor:
    """The latents, with those of a given frame and its mask as further channels: there is none."""
    return torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[..., :1])], dim=-1)


def at_exit(transformer: nn.Module, named: Mapping[str, Any], streams: Mapping[str, Any]) -> Tensor:
    """[B, frames, rows, columns, D]."""
    return streams[STREAM].unflatten(1, *box(transformer, named))


SMALL = {"in_visual_dim": 4, "out_visual_dim": 4, "time_dim": 16, "model_dim": 32, "ff_dim": 48, "axes_dims": (4, 6, 6)}

EXAMPLE = Example(
    "Kandinsky6Transformer3DModel",
    config={
        **SMALL,
        "in_text_dim": 8,
        "in_text_dim2": 8,
        "num_text_blocks": 1,
        "num_visual_blocks": 3,
        "in_audio_dim": 4,
        "out_audio_dim": 4,
    },
    latents=(1, 3, 8, 8, 4),
    arguments=lambda x, t: {
        "hidden_states": conditioned(x),
        "audio_hidden_states": x.reshape(1, -1, 4)[:, :10],
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "pooled_projections": noise(1, 8, seed=2),
        "timestep": torch.tensor([t]),
        "visual_rope_pos": (torch.arange(3), torch.arange(4), torch.arange(4)),
        "encoder_attention_mask": None,
        "visual_token_type_ids": None,
    },
    prepare=fill,
)

BOTH = (STREAM, "audio_hidden_states")
TEXT = {"attn": (Site("attn"),), "mlp": (Site("feed_forward"),)}


def text(stream: str) -> Stack:
    """The blocks over the text for one of the streams."""
    takes = (STREAM, "time_embed", "rope", "attn_mask")
    return Stack(f"{stream}_text_transformer_blocks", takes=takes, sites=TEXT, side=True)


def both(module: str) -> tuple[Site, ...]:
    return Site(f"video_dec_block.{module}"), Site(f"audio_dec_block.{module}", streams=BOTH[1:])


SPECS = (
    ModelSpec(
        "Kandinsky6Transformer3DModel",
        stacks=(
            text("video"),
            text("audio"),
            Stack(
                "visual_transformer_blocks",
                takes=(*BOTH, "text_v", "text_a", "time_embed", "vis_rope", "aud_rope", "attn_mask"),
                returns=BOTH,
                sites={
                    "attn": both("self_attention"),
                    "cross_attn": (
                        *both("cross_attention"),
                        Site("va_cross_attention"),
                        Site("av_cross_attention", streams=BOTH[1:]),
                    ),
                    "mlp": both("feed_forward"),
                },
            ),
        ),
        exit="out_layer",
        other_exits={"audio_hidden_states": "audio_out_layer"},
        at_exit=at_exit,
        signals={Signal.TIME_EMBEDDING: OutputOf("video_time_embeddings", whole)},
        latents=BOTH,
        about="Kandinsky 6, video and audio",
        known_as=("kandinsky-6",),
        example=EXAMPLE,
    ),
)
