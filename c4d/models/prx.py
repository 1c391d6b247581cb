"""PRX: one stream that attends to the text as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Padding, ShardingPlan, Site, Split, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.joint_processors import PRX
from c4d.models.signals import whole


def open_gates(model: nn.Module) -> None:
    """The gates of fresh blocks, and the last layer, are zeros, behind which nothing could be seen."""
    for seed, weight in enumerate(model.parameters()):
        if not weight.any():
            weight.data = 0.2 * noise(*weight.shape, seed=seed)


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
    prepare=open_gates,
)


def matrices(rotary: Tensor, split: Split) -> Tensor:
    """[B, 1, S, D/2, 2, 2]."""
    return split(rotary, 2)


SPECS = (
    ModelSpec(
        "PRXTransformer2DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attention"),)},
                attention={"attention": PRX},
            ),
        ),
        exit="final_layer",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_in", whole)},
        sharding=ShardingPlan("img_in", "final_layer", outputs={"pe_embedder": matrices}),
        grid=patches,
        padding=(Padding("encoder_hidden_states", "attention_mask"),),
        about="PRX",
        known_as=("prx",),
        example=EXAMPLE,
    ),
)
