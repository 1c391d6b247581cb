"""PRX: one stream that attends to the text as well."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole

EXAMPLE = Example(
    "PRXTransformer2DModel",
    config={
        "in_channels": 4,
        "patch_size": 2,
        "context_in_dim": 12,
        "hidden_size": 16,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 3,
        "axes_dim": [4, 4],
    },
    latents=(1, 4, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([t / 1000]),
        "encoder_hidden_states": noise(1, 5, 12, seed=11),
        "attention_mask": torch.ones(1, 5, dtype=torch.bool),
    },
)

SPECS = (
    ModelSpec(
        "PRXTransformer2DModel",
        stacks=(Stack("blocks", takes=("hidden_states",), sites={"attn": (Site("attention"),)}),),
        exit="final_layer",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_in", whole)},
        grid=patches,
        about="PRX",
        known_as=("prx",),
        example=EXAMPLE,
    ),
)
