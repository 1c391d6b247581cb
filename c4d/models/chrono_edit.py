"""ChronoEdit: the blocks of Wan."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec
from c4d.models.examples import at
from c4d.models.grids import patches
from c4d.models.wan import BLOCKS, SIGNALS, SIZES, SPREAD

EXAMPLE = Example(
    "ChronoEditTransformer3DModel",
    config={**SIZES, "in_channels": 12, "out_channels": 4, "num_layers": 3, "image_dim": 8, "added_kv_proj_dim": 24},
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": torch.cat([x, noise(1, 8, 3, 8, 8, seed=1)], dim=1),
        "timestep": at(t),
        "encoder_hidden_states": noise(1, 512, 8, seed=2),  # with images, the last 512 tokens are the text
        "encoder_hidden_states_image": noise(1, 3, 8, seed=3),
        "attention_kwargs": None,
    },
)

SPECS = (
    ModelSpec(
        "ChronoEditTransformer3DModel",
        stacks=(BLOCKS,),
        exit="norm_out",
        signals=SIGNALS,
        sharding=SPREAD,
        grid=patches,
        about="ChronoEdit",
        known_as=("chronoedit",),
        example=EXAMPLE,
    ),
)
