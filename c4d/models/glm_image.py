"""GLM-Image: dual-stream blocks with one MLP for image and text; ids of a coarse image condition the tokens."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole

EXAMPLE = Example(
    "GlmImageTransformer2DModel",
    config={
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "text_embed_dim": 12,
        "time_embed_dim": 16,
        "condition_dim": 8,
        "prior_vq_quantizer_codebook_size": 16,
    },
    latents=(1, 4, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 5, 12, seed=11),
        "prior_token_id": torch.arange(16)[None],
        "prior_token_drop": torch.zeros(1, 16, dtype=torch.bool),
        "timestep": torch.tensor([t]) - 1,
        "target_size": torch.tensor([[64.0, 64.0]]),
        "crop_coords": torch.tensor([[0.0, 0.0]]),
    },
)

SPECS = (
    ModelSpec(
        "GlmImageTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(
                    "hidden_states",
                    "encoder_hidden_states",
                    "temb",
                    "image_rotary_emb",
                    "attention_mask",
                    "attention_kwargs",
                ),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn1"),)},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_condition_embed", whole)},
        grid=patches,
        about="GLM-Image",
        known_as=("glm-image",),
        example=EXAMPLE,
    ),
)
