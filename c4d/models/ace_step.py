"""ACE-Step: music; one stream with cross-attention."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.audio_processors import AceStep, AceStepCross

EXAMPLE = Example(
    "AceStepTransformer1DModel",
    config={
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "in_channels": 24,
        "audio_acoustic_hidden_dim": 8,
        "sliding_window": 4,
        "encoder_hidden_size": 16,
    },
    latents=(1, 16, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([t / 1000]),
        "timestep_r": torch.tensor([t / 1000]),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "context_latents": noise(1, 16, 16, seed=2),
        "attention_kwargs": None,
    },
)

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
        example=EXAMPLE,
    ),
)
