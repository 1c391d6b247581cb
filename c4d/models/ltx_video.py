"""LTX-Video: one stream with cross-attention to the text."""

from __future__ import annotations

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.examples import at
from c4d.models.packed_processors import LTXVideo, LTXVideoCross


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines, [B, S, H * D]."""
    return tuple(split(table, 1) for table in rotary)


def conditions(embedded: tuple[Tensor, ...], split: Split) -> tuple[Tensor, ...]:
    """Timesteps of each token go with the tokens, [B * S, D]; those of each sample stay."""
    return tuple(split.rows(x) for x in embedded)


EXAMPLE = Example(
    "LTXVideoTransformer3DModel",
    config={
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "num_layers": 3,
        "caption_channels": 8,
    },
    latents=(1, 12, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 5, 8, seed=1),
        "timestep": at(t),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0]]),
        "num_frames": 3,
        "height": 2,
        "width": 2,
        "rope_interpolation_scale": (8 / 25, 32, 32),
        "attention_kwargs": None,
    },
)

SPECS = (
    ModelSpec(
        "LTXVideoTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": LTXVideo, "attn2": LTXVideoCross},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan("proj_in", "proj_out", outputs={"rope": tables, "time_embed": conditions}),
        about="LTX-Video",
        known_as=("ltx-video",),
        example=EXAMPLE,
    ),
)
