"""Wan Animate 2: Wan's blocks, with the keys and values of the driving video in their attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack, always
from c4d.core.types import Signal
from c4d.models.signals import whole

LAYERS = 4


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Frames, rows and columns of the samples, which are a list, then what fills them up to ``seq_len``."""
    patch: Any = transformer.config.patch_size  # type: ignore[union-attr]
    box = tuple(n // p for n, p in zip(named["hidden_states"][0].shape[1:], patch, strict=True))
    more = named["seq_len"] - math.prod(box)
    return (box, (more,)) if more else (box,)


def given() -> Any:
    """The keys and values of the driving video, which another forward fills in."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    cache = WanAnimate2KVCache(LAYERS)
    for layer in range(LAYERS):
        cache.get(layer).store(noise(1, 48, 2, 12, seed=50 + layer), noise(1, 48, 2, 12, seed=60 + layer))
    return cache


def mask_uncompiled(model: nn.Module) -> None:
    """Its first step would compile the mask of its attention, which takes seconds and a compiler."""
    from diffusers.models.transformers import transformer_wan_animate_2 as module

    create = module.create_block_mask
    module.create_block_mask = lambda *args, **kwargs: create(*args, **{**kwargs, "_compile": False})
    try:
        made: Any = model
        made.block_masks[3, 16] = made.create_mask(3, 16, torch.device("cpu"))
    finally:
        module.create_block_mask = create


EXAMPLE = Example(
    "WanAnimate2Transformer3DModel",
    config={
        "text_len": 8,
        "in_dim": 12,
        "dim": 24,
        "ffn_dim": 32,
        "freq_dim": 16,
        "text_dim": 8,
        "out_dim": 4,
        "num_heads": 2,
        "num_layers": LAYERS,
    },
    latents=(1, 4, 4, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": list(x),
        "timestep": torch.tensor([int(t)]),
        "encoder_hidden_states": [noise(6, 8, seed=1)],
        "condition_latents": [noise(8, 4, 8, 8, seed=2)],
        "kv_cache": given(),
        "kv_cache_mode": "cached",
        "seq_len": 64,
        "encoder_hidden_states_image": noise(1, 3, 1280, seed=3),
        "reference_grid_sizes": torch.tensor([[3, 4, 4]]),
        "origin_len": 9,
        "origin_area": [64, 64],
        "is_uncondtion": False,
    },
    prepare=mask_uncompiled,
)

SPECS = (
    ModelSpec(
        "WanAnimate2Transformer3DModel",
        stacks=(
            Stack(
                "blocks",
                sites={"attn": (Site("self_attn"),), "cross_attn": (Site("cross_attn"),), "mlp": (Site("ffn"),)},
            ),
        ),
        exit="head",
        left_out=(9,),
        whole_batch=always,  # keys and values of the given frames are no argument
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        grid=grid,
        about="Wan Animate 2",
        known_as=("wan-animate-2",),
        example=EXAMPLE,
    ),
)
