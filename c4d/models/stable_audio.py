"""Stable Audio: one stream with cross-attention to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.audio_processors import StableAudio, StableAudio3, StableAudio3Cross, StableAudioCross
from c4d.models.examples import stir


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    return {
        "hidden_states": x,
        "timestep": torch.tensor([t / 1000]),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "global_hidden_states": noise(1, 1, 24, seed=2),
        "rotary_embedding": get_1d_rotary_pos_embed(8, x.shape[2] + 1, use_real=True, repeat_interleave_real=False),
    }


EXAMPLE = Example(
    "StableAudioDiTModel",
    config={
        "sample_size": 16,
        "in_channels": 8,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_attention_heads": 1,
        "out_channels": 8,
        "cross_attention_dim": 16,
        "time_proj_dim": 16,
        "global_states_input_dim": 24,
        "cross_attention_input_dim": 16,
    },
    latents=(1, 8, 16),
    arguments=arguments,
)

EXAMPLE_3 = Example(
    "StableAudio3DiTModel",
    config={
        "io_channels": 8,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 4,
        "cond_token_dim": 16,
        "global_cond_dim": 16,
        "local_add_cond_dim": 9,
        "timestep_features_dim": 16,
        "ff_mult": 2.0,
        "num_memory_tokens": 4,
    },
    latents=(1, 8, 16),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([t / 1000]),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "global_hidden_states": noise(1, 16, seed=2),
        "encoder_attention_mask": torch.ones(1, 6, dtype=torch.long),
    },
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "StableAudioDiTModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ff"),)},
                attention={"attn1": StableAudio, "attn2": StableAudioCross},
            ),
        ),
        exit="proj_out",
        about="Stable Audio Open",
        known_as=("stable-audio-open",),
        example=EXAMPLE,
    ),
    ModelSpec(
        "StableAudio3DiTModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states",),
                sites={"attn": (Site("self_attn"),), "cross_attn": (Site("cross_attn"),), "mlp": (Site("ff"),)},
                attention={"self_attn": StableAudio3, "cross_attn": StableAudio3Cross},
                joined="last",
            ),
        ),
        exit="proj_out",
        about="Stable Audio 3",
        known_as=("stable-audio-3",),
        example=EXAMPLE_3,
    ),
)
