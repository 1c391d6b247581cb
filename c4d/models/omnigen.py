"""OmniGen: one sequence of text, images and latents through a language model."""

from __future__ import annotations

import torch

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.examples import LATENTS, TEXT, TOKENS, at
from c4d.models.packed_processors import OmniGen

EXAMPLE = Example(
    "OmniGenTransformer2DModel",
    config={
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "num_layers": 3,
        "pad_token_id": 0,
        "vocab_size": 16,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 64,
        "rope_scaling": {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
        "pos_embed_max_size": 8,
        "time_step_dim": 16,
    },
    latents=LATENTS,
    # The prompt, one token for the time, then the image; the time runs the other way: 0 is noise.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": 1 - at(t, 1e-3),
        "input_ids": torch.arange(1, TEXT + 1)[None],
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": torch.ones(TEXT + 1 + TOKENS, TEXT + 1 + TOKENS)[None].tril(TOKENS - 1),
        "position_ids": torch.arange(TEXT + 1 + TOKENS)[None],
    },
)

SPECS = (
    ModelSpec(
        "OmniGenTransformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states",),
                sites={"attn": (Site("self_attn"),), "mlp": (Site("mlp"),)},
                attention={"self_attn": OmniGen},
            ),
        ),
        exit="norm",
        about="OmniGen",
        known_as=("omnigen",),
        example=EXAMPLE,
    ),
)
