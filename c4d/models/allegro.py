"""Allegro: one stream with cross-attention to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Split, Stack
from c4d.core.types import Signal
from c4d.models.examples import at, cells
from c4d.models.grids import patches
from c4d.models.signals import first
from c4d.models.stream_processors import Allegro, AllegroCross


def places(rotary: tuple[Any, tuple[Any, ...]], split: Split) -> tuple[Any, ...]:
    """Of each token its row of a table, along each of three axes, [1, S]; the tables stay."""
    tables, rows = rotary
    return tables, tuple(split(axis, 1) for axis in rows)


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    _, _, frames, height, width = x.shape
    sides = (frames, height // 2, width // 2)
    angles = [noise(side, 4, seed=40 + axis).repeat(1, 2) for axis, side in enumerate(sides)]
    return {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "timestep": at(t),
        "image_rotary_emb": (tuple((angle.cos(), angle.sin()) for angle in angles), tuple(cells(*sides).T[:, None])),
    }


EXAMPLE = Example(
    "AllegroTransformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "num_layers": 3,
        "cross_attention_dim": 48,
        "sample_height": 8,
        "sample_width": 8,
        "sample_frames": 3,
        "caption_channels": 8,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "AllegroTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": Allegro, "attn2": AllegroCross},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("adaln_single", first)},
        sharding=ShardingPlan(
            "transformer_blocks", "proj_out", arguments={"transformer_blocks": {"image_rotary_emb": places}}
        ),
        grid=patches,
        about="Allegro",
        known_as=("allegro",),
        example=EXAMPLE,
    ),
)
