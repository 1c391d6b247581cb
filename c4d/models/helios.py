"""Helios: one stream over the history and the latents, with cross-attention to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, Stack
from c4d.models.examples import at
from c4d.models.stream_processors import Helios, HeliosCross
from c4d.models.wan import SITES, SIZES


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    """The frames before the chunk come along in three resolutions, the first frame of all in front."""
    first, long, mid, short, chunk = torch.arange(1 + 16 + 2 + 1 + 2).split([1, 16, 2, 1, 2])
    return {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "indices_hidden_states": chunk[None],
        "indices_latents_history_short": torch.cat([first, short])[None],
        "indices_latents_history_mid": mid[None],
        "indices_latents_history_long": long[None],
        "latents_history_short": noise(1, 4, 2, 8, 8, seed=2),
        "latents_history_mid": noise(1, 4, 2, 8, 8, seed=3),
        "latents_history_long": noise(1, 4, 16, 8, 8, seed=4),
        "attention_kwargs": None,
    }


EXAMPLE = Example(
    "HeliosTransformer3DModel",
    config={
        **SIZES,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "rope_dim": (4, 4, 4),
        "is_amplify_history": True,
    },
    latents=(1, 4, 2, 8, 8),
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "HeliosTransformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "rotary_emb", "original_context_length"),
                sites=SITES,
                attention={"attn1": Helios, "attn2": HeliosCross},
            ),
        ),
        exit="norm_out",
        about="Helios",
        known_as=("helios",),
        example=EXAMPLE,
    ),
)
