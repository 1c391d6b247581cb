"""The refiner of SANA-WM's videos: the video stream of LTX-2, block of frames by block, with keys and values of earlier
ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import first

LAYERS = 3


def angles(seed: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, of which two neighbours are the same."""
    found = noise(1, 8, 16, seed=seed).repeat_interleave(2, dim=-1)
    return found.cos(), found.sin()


def given() -> Any:
    """The keys and values of a first block of frames, and of the ones shortly before."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

    cache = SanaWMRefinerKVCache(LAYERS)
    cache.sink_pe = angles(31)
    for layer in range(LAYERS):
        cache.get(layer).store_sink(noise(1, 8, 32, seed=50 + layer), noise(1, 8, 32, seed=60 + layer))
        cache.get(layer).store_history(noise(1, 8, 32, seed=70 + layer), noise(1, 8, 32, seed=80 + layer))
    return cache


EXAMPLE = Example(
    "SanaWMLTX2RefinerTransformer3DModel",
    config={
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "audio_in_channels": 8,
        "audio_out_channels": 8,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 16,
        "num_layers": LAYERS,
        "caption_channels": 8,
    },
    latents=(1, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "timestep": torch.full(x.shape[:2], t),
        "video_rotary_emb": angles(32),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "kv_cache": given(),
        "kv_cache_mode": "inject",
    },
)

SPECS = (
    ModelSpec(
        "SanaWMLTX2RefinerTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("time_embed", first)},
        about="SANA-WM's refiner, of LTX-2",
        known_as=("sana-wm-refiner",),
        example=EXAMPLE,
    ),
)
