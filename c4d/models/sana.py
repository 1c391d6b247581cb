"""Sana: linear attention, cross-attention to the text, a convolutional MLP; images and videos."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import first
from c4d.models.stream_processors import SanaCross

SPECS = (
    ModelSpec(
        "SanaTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "attention_mask",
                    "encoder_hidden_states",
                    "encoder_attention_mask",
                    "timestep",
                    "height",
                    "width",
                ),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn2": SanaCross},  # what has no softmax is no kernel's
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("time_embed", first)},
        grid=patches,
        about="Sana 1.0, 1.5 and Sprint",
        known_as=("sana",),
    ),
    ModelSpec(
        "SanaVideoTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "attention_mask",
                    "encoder_hidden_states",
                    "encoder_attention_mask",
                    "timestep",
                    "frames",
                    "height",
                    "width",
                    "rotary_emb",
                ),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn2": SanaCross},  # what has no softmax is no kernel's
            ),
        ),
        exit="norm_out",
        grid=patches,
        about="Sana-Video",
        known_as=("sana-video",),
    ),
)
