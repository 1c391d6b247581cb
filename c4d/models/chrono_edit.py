"""ChronoEdit: the blocks of Wan."""

from __future__ import annotations

from c4d.core.spec import ModelSpec
from c4d.models.grids import patches
from c4d.models.wan import BLOCKS, SIGNALS, SPREAD

SPECS = (
    ModelSpec(
        "ChronoEditTransformer3DModel",
        stacks=(BLOCKS,),
        exit="norm_out",
        signals=SIGNALS,
        sharding=SPREAD,
        grid=patches,
        about="ChronoEdit",
        known_as=("chronoedit",),
    ),
)
