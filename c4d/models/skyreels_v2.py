"""SkyReels-V2: the blocks of Wan, with timesteps of each frame in diffusion forcing."""

from __future__ import annotations

from typing import Any

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import Causal, ModelSpec, ShardingPlan, Split, Stack
from c4d.models.grids import patches
from c4d.models.rotary import later
from c4d.models.wan import ATTENTION, SIGNALS, SITES, SIZES, tables


def conditions(embedded: tuple[Any, ...], split: Split) -> tuple[Any, ...]:
    """One timestep of a sample stays, and so do text and image."""
    if embedded[0].shape[0] not in (1, split.batch):
        raise ValueError(
            "diffusion forcing gives each frame a timestep of its own, which is not spread over ranks: use one rank"
        )
    return embedded


def masked(transformer: Any) -> int:
    return int(transformer.config.num_frame_per_block)


def arguments(transformer: Any, batch: int, fps: float) -> dict[str, Any]:
    """Of models that are told the frames a second: 16, or others."""
    return {"fps": [0 if fps == 16 else 1] * batch} if transformer.config.inject_sample_info else {}


EXAMPLE = Example(
    "SkyReelsV2Transformer3DModel",
    config={**SIZES, "in_channels": 4, "out_channels": 4, "num_layers": 3},
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([int(t)]),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "attention_kwargs": None,
    },
)

SPECS = (
    ModelSpec(
        "SkyReelsV2Transformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "rotary_emb", "attention_mask"),
                sites=SITES,
                attention=ATTENTION,
            ),
        ),
        exit="norm_out",
        signals=SIGNALS,
        sharding=ShardingPlan("patch_embedding", "proj_out", {"rope": tables, "condition_embedder": conditions}),
        grid=patches,
        about="SkyReels-V2, text and image to video, and diffusion forcing",
        known_as=("skyreels-v2",),
        example=EXAMPLE,
        causal=Causal("rope", later, masked, arguments),
    ),
)
