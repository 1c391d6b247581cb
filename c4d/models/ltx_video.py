"""LTX-Video: one stream with cross-attention to the text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack

SPECS = (
    ModelSpec(
        "LTXVideoTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
            ),
        ),
        exit="norm_out",
        about="LTX-Video",
        known_as=("ltx-video",),
    ),
)
