"""Cosmos: one stream with cross-attention to the text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.grids import patches
from c4d.models.stream_processors import Cosmos, CosmosCross

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
        grid=patches,
        about="Cosmos 1, Predict 2 and 2.5",
        known_as=("cosmos",),
    ),
)
