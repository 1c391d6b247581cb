"""Mochi: dual-stream blocks, of which the last returns no text."""

from __future__ import annotations

from c4d.core.spec import AtEntry, ModelSpec, OutputOf, Padding, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import Mochi
from c4d.models.signals import first, modulated_by_temb

SPECS = (
    ModelSpec(
        "MochiTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
                attention={"attn1": Mochi},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_embed", first),
            Signal.MODULATED_INPUT: AtEntry(modulated_by_temb),
        },
        sharding=ShardingPlan("transformer_blocks", "proj_out", outputs={"rope": tables}),
        grid=patches,
        padding=(Padding("encoder_hidden_states", "encoder_attention_mask"),),
        about="Mochi 1",
        known_as=("mochi",),
    ),
)
