"""Nucleus-Image: one stream with a mixture of experts."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grouped_processors import Nucleus
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "NucleusMoEImageTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn"),)},
                attention={"attn": Nucleus},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_text_embed", whole)},
        about="Nucleus-Image",
        known_as=("nucleus-image",),
    ),
)
