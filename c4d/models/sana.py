"""Sana: linear attention, cross-attention to the text, a convolutional MLP; images and videos."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import SIDE, at, mask, text
from c4d.models.grids import patches
from c4d.models.signals import first
from c4d.models.stream_processors import SanaCross

EXAMPLE = Example(
    "SanaTransformer2DModel",
    config={
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 3,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 12,
        "mlp_ratio": 2.0,
        "sample_size": SIDE,
        "qk_norm": "rms_norm_across_heads",
    },
    latents=(1, 8, SIDE, SIDE),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": text(12),
        "encoder_attention_mask": mask(torch.long),
        "timestep": at(t),
    },
)

EXAMPLE_VIDEO = Example(
    "SanaVideoTransformer3DModel",
    config={
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 3,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 12,
        "cross_attention_dim": 24,
        "caption_channels": 8,
        "sample_size": 8,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "timestep": at(t),
        "attention_kwargs": None,
    },
)

SPECS = (
    ModelSpec(
        "SanaTransformer2DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "attention_mask",
                    "encoder_hidden_states",
                    "encoder_attention_mask",
                    "timestep",
                    "height",
                    "width",
                ),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff", by_token=False),)},
                attention={"attn2": SanaCross},  # what has no softmax is no kernel's
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("time_embed", first)},
        grid=patches,
        about="Sana 1.0, 1.5 and Sprint",
        known_as=("sana",),
        example=EXAMPLE,
    ),
    ModelSpec(
        "SanaVideoTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "attention_mask",
                    "encoder_hidden_states",
                    "encoder_attention_mask",
                    "timestep",
                    "frames",
                    "height",
                    "width",
                    "rotary_emb",
                ),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff", by_token=False),)},
                attention={"attn2": SanaCross},  # what has no softmax is no kernel's
            ),
        ),
        exit="norm_out",
        grid=patches,
        about="Sana-Video",
        known_as=("sana-video",),
        example=EXAMPLE_VIDEO,
    ),
)
