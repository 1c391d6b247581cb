"""Mochi: dual-stream blocks, of which the last returns no text."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import AtEntry, ModelSpec, OutputOf, Padding, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import at, stir
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import Mochi
from c4d.models.signals import first, modulated_by_temb

EXAMPLE = Example(
    "MochiTransformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "pooled_projection_dim": 16,
        "in_channels": 4,
        "text_embed_dim": 16,
        "time_embed_dim": 16,
        "max_sequence_length": 6,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "timestep": at(1000 - t),  # upwards
        "encoder_attention_mask": torch.tensor([[True, True, True, True, False, False]]),
        "attention_kwargs": None,
    },
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "MochiTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
                attention={"attn1": Mochi},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_embed", first),
            Signal.MODULATED_INPUT: AtEntry(modulated_by_temb),
        },
        sharding=ShardingPlan("transformer_blocks", "proj_out", outputs={"rope": tables}),
        grid=patches,
        padding=(Padding("encoder_hidden_states", "encoder_attention_mask"),),
        about="Mochi 1",
        known_as=("mochi",),
        example=EXAMPLE,
    ),
)
