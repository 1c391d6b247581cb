"""AnyFlow: the blocks of Wan, sampled with any number of steps."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack

SPECS = (
    ModelSpec(
        "AnyFlowTransformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "rotary_emb", "attention_mask"),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ffn"),)},
            ),
        ),
        exit="norm_out",
        about="AnyFlow",
        known_as=("anyflow",),
    ),
)
