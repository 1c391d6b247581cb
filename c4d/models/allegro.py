"""Allegro: one stream with cross-attention to the text."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import first
from c4d.models.stream_processors import Allegro, AllegroCross

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
        grid=patches,
        about="Allegro",
        known_as=("allegro",),
    ),
)
