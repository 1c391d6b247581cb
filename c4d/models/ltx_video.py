"""LTX-Video: one stream with cross-attention to the text."""

from __future__ import annotations

from torch import Tensor

from c4d.core.spec import ModelSpec, ShardingPlan, Site, Split, Stack
from c4d.models.packed_processors import LTXVideo, LTXVideoCross


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines, [B, S, H * D]."""
    return tuple(split(table, 1) for table in rotary)


def conditions(embedded: tuple[Tensor, ...], split: Split) -> tuple[Tensor, ...]:
    """Timesteps of each token go with the tokens, [B * S, D]; those of each sample stay."""
    return tuple(split.rows(x) for x in embedded)


SPECS = (
    ModelSpec(
        "LTXVideoTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": LTXVideo, "attn2": LTXVideoCross},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan("proj_in", "proj_out", outputs={"rope": tables, "time_embed": conditions}),
        about="LTX-Video",
        known_as=("ltx-video",),
    ),
)
