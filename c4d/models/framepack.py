"""FramePack: the blocks of HunyuanVideo over the frames that were, and the latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import TEXT_STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import at
from c4d.models.grids import patches
from c4d.models.joint_processors import HunyuanVideoDual, HunyuanVideoSingle
from c4d.models.signals import first


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    start, quarter, half, last, chunk = torch.arange(1 + 16 + 2 + 1 + 2).split([1, 16, 2, 1, 2])
    return {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "pooled_projections": noise(1, 8, seed=2),
        "image_embeds": noise(1, 3, 8, seed=3),
        "indices_latents": chunk,
        "guidance": torch.tensor([6000.0]),
        "latents_clean": noise(1, 4, 2, 8, 8, seed=4),
        "indices_latents_clean": torch.cat([start, last]),
        "latents_history_2x": noise(1, 4, 2, 8, 8, seed=5),
        "indices_latents_history_2x": half,
        "latents_history_4x": noise(1, 4, 16, 8, 8, seed=6),
        "indices_latents_history_4x": quarter,
        "attention_kwargs": None,
    }


EXAMPLE = Example(
    "HunyuanVideoFramepackTransformer3DModel",
    config={
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 6, 6),
        "has_image_proj": True,
        "image_proj_dim": 8,
        "has_clean_x_embedder": True,
    },
    latents=(1, 4, 2, 8, 8),
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "HunyuanVideoFramepackTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "freqs_cis"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={
                    "attn": (Site("attn"),),
                    "mlp": (
                        Site("ff"),
                        Site("ff_context", streams=(TEXT_STREAM,)),
                    ),
                },
                attention={"attn": HunyuanVideoDual},
                joined="last",
            ),
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn"),)},
                attention={"attn": HunyuanVideoSingle},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_text_embed", first)},
        grid=patches,
        shared=tuple(f"indices_latents{part}" for part in ("", "_clean", "_history_2x", "_history_4x")),
        about="HunyuanVideo FramePack",
        known_as=("framepack",),
        example=EXAMPLE,
    ),
)
