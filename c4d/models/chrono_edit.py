"""ChronoEdit: the blocks of Wan."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.grids import patches
from c4d.models.wan import SIGNALS

SPECS = (
    ModelSpec(
        "ChronoEditTransformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "rotary_emb"),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ffn"),)},
            ),
        ),
        exit="norm_out",
        signals=SIGNALS,
        grid=patches,
        about="ChronoEdit",
        known_as=("chronoedit",),
    ),
)
