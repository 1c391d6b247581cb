"""AnyFlow: the blocks of Wan, sampled with any number of steps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.stream_processors import AnyFlow, AnyFlowCross
from c4d.models.wan import conditions


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
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ffn"),)},
                attention={"attn1": AnyFlow, "attn2": AnyFlowCross},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "patch_embedding", "proj_out", outputs={"rope": tables, "condition_embedder": conditions}
        ),
        about="AnyFlow",
        known_as=("anyflow",),
    ),
)
