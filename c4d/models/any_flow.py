"""AnyFlow: the blocks of Wan, sampled with any number of steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, ShardingPlan, Split, Stack
from c4d.models.stream_processors import AnyFlow, AnyFlowCross
from c4d.models.wan import SITES, SIZES, conditions

EXAMPLE = Example(
    "AnyFlowTransformer3DModel",
    config={**SIZES, "in_channels": 4, "out_channels": 4, "num_layers": 3},
    latents=(1, 3, 4, 8, 8),
    # A timestep a frame, and the one at which the step ends.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.full(x.shape[:2], t),
        "r_timestep": torch.full(x.shape[:2], max(t - 100, 0.0)),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "attention_kwargs": None,
    },
)


def tables(rotary: Mapping[str, Tensor], split: Split) -> dict[str, Tensor]:
    """Of queries and of keys, [1, 1, S, D/2]."""
    return {name: split(table, 2) for name, table in rotary.items()}


SPECS = (
    ModelSpec(
        "AnyFlowTransformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "rotary_emb", "attention_mask"),
                sites=SITES,
                attention={"attn1": AnyFlow, "attn2": AnyFlowCross},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "patch_embedding", "proj_out", outputs={"rope": tables, "condition_embedder": conditions}
        ),
        about="AnyFlow",
        known_as=("anyflow",),
        example=EXAMPLE,
    ),
)
