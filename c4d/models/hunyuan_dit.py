"""Hunyuan-DiT: one stream with cross-attention, and long skips from the first blocks to the last."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "HunyuanDiT2DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_extra_emb", whole)},
        like_latents=False,
        long_skips=True,
        grid=patches,
        about="Hunyuan-DiT",
        known_as=("hunyuan-dit",),
    ),
)
