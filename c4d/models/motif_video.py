"""Motif-Video: dual- and single-stream blocks; the last ones decode the first tokens beside what the others made."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import TEXT_STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole

TAKES = ("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb", "image_embed_seq_len")
BOTH = ("hidden_states", "encoder_hidden_states")
ATTENTION = {"attn": (Site("attn"),), "cross_attn": (Site("cross_attn", by_token=False),)}

EXAMPLE = Example(
    "MotifVideoTransformer3DModel",
    config={
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "num_decoder_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "rope_axes_dim": (4, 6, 6),
        "enable_text_cross_attention_dual": True,
        "enable_text_cross_attention_single": True,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[:, :1])], dim=1),
        "timestep": torch.tensor([t]),
        "attention_kwargs": None,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
    },
)

SPECS = (
    ModelSpec(
        "MotifVideoTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=TAKES,
                returns=BOTH,
                sites={**ATTENTION, "mlp": (Site("ff"), Site("ff_context", streams=(TEXT_STREAM,)))},
            ),
            Stack("single_transformer_blocks", takes=TAKES, returns=BOTH, sites=ATTENTION),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_text_embed", whole)},
        long_skips=True,
        grid=patches,
        about="Motif-Video",
        known_as=("motif-video",),
        example=EXAMPLE,
    ),
)
