"""Cosmos: one stream with cross-attention to the text."""

from __future__ import annotations

from torch import Tensor

from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack, sequence
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.stream_processors import Cosmos, CosmosCross


def condition(embedded: Tensor, split: Split) -> Tensor:
    """Timesteps of each frame go with its tokens, [B, S, C]; one of a sample stays, [B, C]."""
    return split(embedded, 1) if embedded.ndim == 3 else embedded


CONDITIONS = {"embedded_timestep": condition, "temb": condition}

SPECS = (
    ModelSpec(
        "CosmosTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "encoder_hidden_states",
                    "embedded_timestep",
                    "temb",
                    "image_rotary_emb",
                    "extra_pos_emb",
                    "attention_mask",
                    "controlnet_residual",
                ),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": Cosmos, "attn2": CosmosCross},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "transformer_blocks",
            "proj_out",
            outputs={"rope": tables},
            arguments={
                "transformer_blocks": {**CONDITIONS, "extra_pos_emb": sequence, "controlnet_residual": sequence},
                "norm_out": CONDITIONS,
            },
        ),
        grid=patches,
        about="Cosmos 1, Predict 2 and 2.5",
        known_as=("cosmos",),
    ),
)
