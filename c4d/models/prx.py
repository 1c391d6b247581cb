"""PRX: one stream that attends to the text as well."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "PRXTransformer2DModel",
        stacks=(Stack("blocks", takes=("hidden_states",), sites={"attn": (Site("attention"),)}),),
        exit="final_layer",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_in", whole)},
        grid=patches,
        about="PRX",
        known_as=("prx",),
    ),
)
