"""FLUX.2: dual-stream blocks, then single-stream ones over text and image as one sequence."""

from __future__ import annotations

import torch
from torch import nn

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import PACKED, TEXT, TWO_HEADS, TWO_STREAMS, at, places, strengthen, text
from c4d.models.flux import DUAL, SINGLE, grid, tables
from c4d.models.processors import Flux2Single
from c4d.models.signals import whole

EXAMPLE = Example(
    "Flux2Transformer2DModel",
    config={
        **TWO_STREAMS,
        **TWO_HEADS,
        "timestep_guidance_channels": 16,
        "mlp_ratio": 2.0,
        "axes_dims_rope": (2, 2, 2, 2),
    },
    latents=PACKED,
    # Ids of an image: (time, row, column, layer); of a prompt, the last one counts.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "guidance": torch.tensor([4.0]),
        "encoder_hidden_states": text(16),
        "txt_ids": nn.functional.pad(torch.arange(TEXT).view(1, TEXT, 1), (3, 0)),
        "img_ids": nn.functional.pad(places().long()[None], (0, 1)),
    },
    prepare=strengthen,
)

SPECS = (
    ModelSpec(
        "Flux2Transformer2DModel",
        stacks=(
            DUAL,
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),)},
                attention={"attn": Flux2Single},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_guidance_embed", whole)},
        sharding=ShardingPlan(
            "x_embedder",
            "proj_out",
            # Text and image have tables of their own, which the forward joins.
            arguments={stack: {"image_rotary_emb": tables} for stack in (DUAL.path, SINGLE.path)},
        ),
        grid=grid,
        about="FLUX.2 dev and Klein",
        known_as=("flux.2",),
        example=EXAMPLE,
    ),
)
