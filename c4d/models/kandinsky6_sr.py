"""Kandinsky 6, super-resolution: one stream with sparse attention, tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example
from c4d.core.spec import STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.kandinsky5 import box, fill, merged
from c4d.models.kandinsky6 import SMALL, conditioned
from c4d.models.signals import whole


def at_exit(transformer: nn.Module, named: Mapping[str, Any], streams: Mapping[str, Any]) -> Tensor:
    """[B, frames, rows, columns, D], of what the blocks have tile by tile."""
    return merged(streams[STREAM], *box(transformer, named)[0])


EXAMPLE = Example(
    "Kandinsky6SRTransformer3DModel",
    config={**SMALL, "num_visual_blocks": 3},
    latents=(1, 2, 16, 8, 4),
    arguments=lambda x, t: {"hidden_states": conditioned(x), "timestep": torch.tensor([t])},
    prepare=fill,
)

SPECS = (
    ModelSpec(
        "Kandinsky6SRTransformer3DModel",
        stacks=(
            Stack(
                "visual_transformer_blocks",
                takes=(STREAM, "temb", "rotary_emb", "sparse_params"),
                sites={"attn": (Site("self_attention"),), "mlp": (Site("feed_forward"),)},
            ),
        ),
        exit="out_layer",
        at_exit=at_exit,
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embeddings", whole)},
        channels=-1,
        grid=box,
        about="Kandinsky 6, super-resolution",
        known_as=("kandinsky-6-sr",),
        example=EXAMPLE,
    ),
)
