"""ACE-Step: music; one stream with cross-attention."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.audio_processors import AceStep, AceStepCross

SPECS = (
    ModelSpec(
        "AceStepTransformer1DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states",),
                sites={"attn": (Site("self_attn"),), "cross_attn": (Site("cross_attn"),), "mlp": (Site("mlp"),)},
                attention={"self_attn": AceStep, "cross_attn": AceStepCross},
            ),
        ),
        exit="norm_out",
        about="ACE-Step",
        known_as=("ace-step",),
    ),
)
