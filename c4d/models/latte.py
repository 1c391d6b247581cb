"""Latte: blocks over each frame, and between them blocks over each place in all frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import first

EXAMPLE = Example(
    "LatteTransformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 8,  # the variance too, which its pipeline drops
        "num_layers": 3,
        "cross_attention_dim": 32,
        "attention_bias": True,
        "sample_size": 8,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": 8,
        "video_length": 3,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "timestep": torch.tensor([int(t)]),
        "enable_temporal_attentions": True,
    },
)


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns of a frame: at the exit each frame is a sample."""
    patch: Any = transformer.config.patch_size  # type: ignore[union-attr]
    return (tuple(n // patch for n in named["hidden_states"].shape[3:]),)


TAKES = ("hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", "timestep")
REST = ("cross_attention_kwargs", "class_labels")
SITES = {"attn": (Site("attn1"),), "mlp": (Site("ff"),)}

SPECS = (
    ModelSpec(
        "LatteTransformer3DModel",
        conditional="last",
        stacks=(
            Stack("transformer_blocks", takes=TAKES + REST, sites={**SITES, "cross_attn": (Site("attn2"),)}),
            Stack("temporal_transformer_blocks", takes=TAKES + REST, sites=SITES, interleaved=True),
        ),
        exit="norm_out",
        batch_first=False,
        signals={Signal.TIME_PROJECTION: OutputOf("adaln_single", first)},
        like_latents=False,
        grid=grid,
        about="Latte, text to video",
        known_as=("latte",),
        example=EXAMPLE,
    ),
)
