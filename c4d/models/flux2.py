"""FLUX.2: dual-stream blocks, then single-stream ones over text and image as one sequence."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from torch import nn

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import whole


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns of tokens, of one image after the other (references), from their places; one host read."""
    places = named["img_ids"]
    images = groupby((places[0] if places.ndim == 3 else places).tolist(), key=lambda place: place[0])
    sides = (zip(*image, strict=True) for _, image in images)
    return tuple((len(set(rows)), len(set(columns))) for _, rows, columns, _ in sides)


SPECS = (
    ModelSpec(
        "Flux2Transformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("encoder_hidden_states", "hidden_states"),
                sites={
                    "attn": (Site("attn"),),
                    "mlp": (
                        Site("ff"),
                        Site("ff_context"),
                    ),
                },
            ),
            Stack(
                "single_transformer_blocks", takes=("hidden_states",), sites={"attn": (Site("attn"),)}, joined="last"
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_guidance_embed", whole)},
        grid=grid,
        about="FLUX.2 dev and Klein",
        known_as=("flux.2",),
    ),
)
