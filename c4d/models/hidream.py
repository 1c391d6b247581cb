"""HiDream: dual-stream blocks, then single-stream ones over image and text as one sequence; each reads a layer of the
text encoder, and of experts each token has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from c4d.core.example import Example, noise
from c4d.core.spec import TEXT_STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import whole

EXAMPLE = Example(
    "HiDreamImageTransformer2DModel",
    config={
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 6,
        "num_attention_heads": 2,
        "caption_channels": [12, 10],
        "text_emb_dim": 6,
        "num_routed_experts": 2,
        "num_activated_experts": 1,
        "axes_dims_rope": (2, 2, 2),
        "max_resolution": (8, 8),
        "llama_layers": [0, 1, 1, 0],
    },
    latents=(1, 4, 4, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timesteps": torch.tensor([t]),
        "encoder_hidden_states_t5": noise(1, 5, 12, seed=11),
        "encoder_hidden_states_llama3": noise(2, 1, 5, 10, seed=12),  # layers first
        "pooled_embeds": noise(1, 6, seed=14),
    },
)


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns; unless these are as many, behind them what fills the sequence up to its longest."""
    patch: Any = transformer.config.patch_size  # type: ignore[union-attr]
    rows, columns = (n // patch for n in named["hidden_states"].shape[2:])
    more: Any = 0 if rows == columns else transformer.max_seq - rows * columns
    return ((rows, columns), (more,)) if more else ((rows, columns),)


TAKES = ("hidden_states", "hidden_states_masks", "encoder_hidden_states", "temb", "image_rotary_emb")

SPECS = (
    ModelSpec(
        "HiDreamImageTransformer2DModel",
        stacks=(
            Stack(
                "double_stream_blocks",
                takes=TAKES,
                returns=("hidden_states", "encoder_hidden_states"),
                sites={
                    "attn": (Site("block.attn1"),),
                    "mlp": (Site("block.ff_i"), Site("block.ff_t", streams=(TEXT_STREAM,))),
                },
                filled=True,  # the length of the last text that its body reads is asked for behind it
            ),
            Stack(
                "single_stream_blocks",
                takes=TAKES,
                sites={"attn": (Site("block.attn1"),), "mlp": (Site("block.ff_i"),)},
                joined="first",
            ),
        ),
        exit="final_layer",
        signals={Signal.TIME_EMBEDDING: OutputOf("t_embedder", whole)},
        timestep="timesteps",
        grid=grid,
        about="HiDream-I1",
        known_as=("hidream-i1",),
        example=EXAMPLE,
    ),
)
