"""LongCat-AudioDiT: one stream with cross-attention to the text, and a long skip around all blocks."""

from __future__ import annotations

import torch
from torch import nn

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack, always
from c4d.core.types import Signal
from c4d.models.signals import whole


def fill(model: nn.Module) -> None:
    """Small random numbers for what starts as zeros: its modulations and its last layer."""
    for i, weight in enumerate(weight for weight in model.parameters() if not weight.any()):
        weight.data = 0.1 * noise(*weight.shape, seed=i)


EXAMPLE = Example(
    "LongCatAudioDiTTransformer",
    config={"dit_dim": 32, "dit_depth": 4, "dit_heads": 4, "dit_text_dim": 16, "latent_dim": 8, "ff_mult": 2.0},
    latents=(1, 16, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "encoder_attention_mask": torch.ones(1, 6, dtype=torch.bool),
        "timestep": torch.tensor([t / 1000]),
        "attention_mask": torch.ones(1, 16, dtype=torch.bool),
        "latent_cond": torch.zeros(1, 16, 8),
    },
    prepare=fill,
)

SPECS = (
    ModelSpec(
        "LongCatAudioDiTTransformer",
        stacks=(
            Stack(
                "blocks",
                sites={
                    "attn": (Site("self_attn"),),
                    "cross_attn": (Site("cross_attn", by_token=False),),
                    "mlp": (Site("ffn"),),
                },
                filled=True,  # what came to the blocks is added behind them
            ),
        ),
        exit="norm_out",
        whole_batch=always,  # what came to them is added behind them
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embed", whole)},
        about="LongCat-AudioDiT",
        known_as=("longcat-audio",),
        example=EXAMPLE,
    ),
)
