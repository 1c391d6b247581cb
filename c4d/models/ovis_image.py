"""Ovis-Image: dual-stream blocks, then single-stream ones, as in FLUX.1."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf
from c4d.core.types import Signal
from c4d.models.flux import DUAL, SINGLE, SPREAD, grid
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "OvisImageTransformer2DModel",
        stacks=(DUAL, SINGLE),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("timestep_embedder", whole)},
        sharding=SPREAD,
        grid=grid,
        about="Ovis-Image",
        known_as=("ovis-image",),
    ),
)
