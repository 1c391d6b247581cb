"""Kandinsky 5: the text in blocks of its own, then blocks over the video that attend to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, noise
from c4d.core.spec import STREAM, ModelSpec, OutputOf, Site, Stack, always
from c4d.core.types import Signal
from c4d.models.signals import whole

TILE = 8  # tokens along a side of the tiles that sparse attention takes


def box(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Frames, rows and columns of tokens, of latents [B, frames, rows, columns, C]."""
    patch: Any = transformer.config.patch_size  # type: ignore[union-attr]
    return (tuple(n // p for n, p in zip(named["hidden_states"].shape[1:4], patch, strict=True)),)


def merged(x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """Tokens tile by tile [B, S, D] -> [B, frames, rows, columns, D]."""
    x = x.unflatten(1, (frames, rows // TILE, columns // TILE, TILE, TILE)).transpose(3, 4)
    return x.flatten(4, 5).flatten(2, 3)


def at_exit(transformer: nn.Module, named: Mapping[str, Any], streams: Mapping[str, Any]) -> Tensor:
    """[B, frames, rows, columns, D]; with sparse attention the blocks have them tile by tile."""
    (sides,) = box(transformer, named)
    tiled = (named.get("sparse_params") or {}).get("to_fractal", False)
    return merged(streams[STREAM], *sides) if tiled else streams[STREAM].unflatten(1, sides)


def fill(model: nn.Module) -> None:
    """Small random numbers for what starts as zeros: its modulations."""
    for i, weight in enumerate(weight for weight in model.parameters() if not weight.any()):
        weight.data = 0.2 * noise(*weight.shape, seed=i)


EXAMPLE = Example(
    "Kandinsky5Transformer3DModel",
    config={
        "in_text_dim": 8,
        "in_text_dim2": 8,
        "time_dim": 16,
        "model_dim": 32,
        "ff_dim": 48,
        "num_text_blocks": 1,
        "num_visual_blocks": 3,
        "axes_dims": (4, 6, 6),
    },
    latents=(1, 3, 8, 8, 4),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "pooled_projections": noise(1, 8, seed=2),
        "timestep": torch.tensor([t]),
        "visual_rope_pos": [torch.arange(3), torch.arange(4), torch.arange(4)],
        "text_rope_pos": torch.arange(6),
        "scale_factor": (1.0, 2.0, 2.0),
        "sparse_params": None,
    },
    prepare=fill,
)

SITES = {"attn": (Site("self_attention"),), "mlp": (Site("feed_forward"),)}

SPECS = (
    ModelSpec(
        "Kandinsky5Transformer3DModel",
        stacks=(
            Stack("text_transformer_blocks", takes=("hidden_states", "time_embed", "rope"), sites=SITES, side=True),
            Stack(
                "visual_transformer_blocks",
                takes=("hidden_states", "text_embed", "time_embed", "rope", "sparse_params"),
                sites={**SITES, "cross_attn": (Site("cross_attention"),)},
            ),
        ),
        exit="out_layer",
        whole_batch=always,  # the shape of the latents, their batch with it
        at_exit=at_exit,
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embeddings", whole)},
        channels=-1,
        grid=box,
        about="Kandinsky 5, images and video, with full or sparse attention",
        known_as=("kandinsky-5",),
        example=EXAMPLE,
    ),
)
