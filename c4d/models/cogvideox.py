"""CogVideoX: dual-stream blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import STREAM, TEXT_STREAM, ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import rotary
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import CogVideoX
from c4d.models.signals import whole


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    _, frames, _, height, width = x.shape
    return {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "timestep": torch.tensor([int(t)]),
        "image_rotary_emb": rotary(frames * height * width // 4, 16),
        "attention_kwargs": None,
    }


EXAMPLE = Example(
    "CogVideoXTransformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 8,
        "num_layers": 3,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": 6,
        "use_rotary_positional_embeddings": True,
    },
    latents=(1, 3, 4, 8, 8),
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "CogVideoXTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff", streams=(TEXT_STREAM, STREAM)),)},
                attention={"attn1": CogVideoX},
            ),
        ),
        exit="norm_final",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        sharding=ShardingPlan(  # one module makes text and video tokens
            "transformer_blocks", "proj_out", arguments={"transformer_blocks": {"image_rotary_emb": tables}}
        ),
        about="CogVideoX and CogVideoX 1.5",
        known_as=("cogvideox",),
        example=EXAMPLE,
    ),
)
