"""Allegro: one stream with cross-attention to the text."""

from __future__ import annotations

from typing import Any

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Split, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import first
from c4d.models.stream_processors import Allegro, AllegroCross


def places(rotary: tuple[Any, tuple[Any, ...]], split: Split) -> tuple[Any, ...]:
    """Of each token its row of a table, along each of three axes, [1, S]; the tables stay."""
    tables, rows = rotary
    return tables, tuple(split(axis, 1) for axis in rows)


SPECS = (
    ModelSpec(
        "AllegroTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": Allegro, "attn2": AllegroCross},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("adaln_single", first)},
        sharding=ShardingPlan(
            "transformer_blocks", "proj_out", arguments={"transformer_blocks": {"image_rotary_emb": places}}
        ),
        grid=patches,
        about="Allegro",
        known_as=("allegro",),
    ),
)
