"""Bria: dual-stream and single-stream blocks as in FLUX.1; Fibo 2 has one list over text and image."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import DUAL, SINGLE, SPREAD, grid
from c4d.models.grids import patches
from c4d.models.packed_processors import BriaFibo2, BriaFibo2Cross
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "BriaTransformer2DModel",
        stacks=(DUAL, SINGLE),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embed", whole)},
        sharding=SPREAD,
        grid=grid,
        about="Bria 3.2",
        known_as=("bria-3",),
    ),
    ModelSpec(
        "BriaFibo2Transformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attn_mask", "freqs_cis"),
                sites={"attn": (Site("attention"),), "mlp": (Site("feed_forward"),)},
                attention={"attention": BriaFibo2, "cross_attention": BriaFibo2Cross},
                joined="last",
            ),
        ),
        exit="final_layer",
        grid=patches,
        about="Bria Fibo 2",
        known_as=("bria-fibo-2",),
    ),
)
