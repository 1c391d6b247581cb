"""MiniMax-H3: one packed sequence of video, audio and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Split, Stack, always
from c4d.core.types import Signal
from c4d.models.examples import cells
from c4d.models.hunyuan_video import tables
from c4d.models.packed_processors import MiniMaxH3
from c4d.models.signals import whole


def rows(indices: Tensor, split: Split) -> Tensor:
    """Of each token the row of a table, [S]."""
    return split(indices, 0)


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    """Text, sound and video in one sequence; timesteps 0..1 (clean), one of the video and one of the sound.

    Its pipeline passes the distinct ones: at the first step, where both are 0, there is one.
    """
    text, sound, video = torch.arange(4), torch.arange(4, 10), torch.arange(10, 18)
    sigma = t / 1000
    rows = torch.full((18,), 1 - 3 * sigma / (1 + 2 * sigma))  # two schedules, differently shifted
    rows[sound] = 1 - sigma
    timestep, indices = torch.unique(rows, sorted=True, return_inverse=True)
    tags = torch.ones(18, dtype=torch.long)
    tags[sound], tags[video] = 2, 0
    positions = torch.zeros(18, 3, dtype=torch.float64)
    positions[text, 0] = torch.arange(4.0, dtype=torch.float64)
    positions[sound, 0] = 4 + torch.arange(3.0, dtype=torch.float64).repeat(2)
    positions[sound, 2] = 16 * torch.arange(2.0, dtype=torch.float64).repeat_interleave(3)
    positions[video] = cells(2, 2, 2) * torch.tensor([5 / 3, 16, 16], dtype=torch.float64) + torch.tensor([4, 0, 0])
    return {
        "hidden_states": x,
        "audio_hidden_states": x.reshape(1, -1, 4)[:, :6],
        "encoder_hidden_states": noise(1, 4, 8, seed=1),
        "timestep": timestep,
        "timestep_indices": indices,
        "attention_kwargs": None,
        "token_tags": tags,
        "position_ids": positions,
        "video_indices": video,
        "audio_indices": sound,
        "text_indices": text,
    }


EXAMPLE = Example(
    "MiniMaxH3Transformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "hidden_size": 24,
        "num_layers": 3,
        "num_refiner_layers": 1,
        "ffn_dim": 32,
        "in_channels": 4,
        "audio_in_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "time_embed_hidden_dim": 16,
        "time_embed_dim": 8,
        "rope_freq_dim": 2,
    },
    latents=(1, 8, 16),
    arguments=arguments,
)
SPECS = (
    ModelSpec(
        "MiniMaxH3Transformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "temb", "adaln_indices", "rotary_emb"),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                attention={"attn": MiniMaxH3},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "transformer_blocks",
            "norm_out",
            outputs={"rope": tables},
            arguments={"transformer_blocks": {"adaln_indices": rows}, "norm_out": {"timestep_indices": rows}},
        ),
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedder", whole)},
        latents=("hidden_states", "audio_hidden_states"),
        whole_batch=always,  # a row of modulations for each distinct timestep
        shared=("timestep",),
        about="MiniMax-H3, video and audio",
        known_as=("minimax-h3",),
        example=EXAMPLE,
    ),
)
