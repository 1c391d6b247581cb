"""Cosmos 3: a tower that reads and one that generates, which meet in the attention of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, Site, Stack
from c4d.models.examples import cells
from c4d.models.grouped_processors import Cosmos3


def arguments(x: Tensor, t: float) -> Mapping[str, Any]:
    """Text, then the patches of the video, then the sound, in one sequence without a batch side."""
    frames, height, width = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
    sound = x.reshape(-1)[: 4 * 6].reshape(4, 6)
    words, patches, seconds = 5, frames * height * width, 6
    order = torch.arange(words + patches + seconds)
    start = torch.tensor([[15000 + words], [0], [0]])
    places = (torch.arange(words).expand(3, -1), start + cells(frames, height, width).T, start + cells(seconds, 1, 1).T)
    return {
        "input_ids": torch.tensor([3, 1, 4, 1, 5]),
        "text_indexes": order[:words],
        "position_ids": torch.cat(places, dim=1).float(),
        "und_len": words,
        "sequence_length": len(order),
        "vision_tokens": [x],
        "vision_token_shapes": [(frames, height, width)],
        "vision_sequence_indexes": order[words : words + patches],
        "vision_mse_loss_indexes": order[words : words + patches],
        "vision_timesteps": torch.full((patches,), t),
        "vision_noisy_frame_indexes": [torch.arange(frames)],
        "sound_tokens": [sound],
        "sound_token_shapes": [(seconds, 1, 1)],
        "sound_sequence_indexes": order[words + patches :],
        "sound_mse_loss_indexes": order[words + patches :],
        "sound_timesteps": torch.full((seconds,), t),
        "sound_noisy_frame_indexes": [torch.arange(seconds)],
        "action_tokens": None,
        "action_token_shapes": None,
        "action_sequence_indexes": None,
        "action_mse_loss_indexes": None,
        "action_timesteps": None,
        "action_noisy_frame_indexes": None,
        "action_domain_ids": None,
    }


EXAMPLE = Example(
    "Cosmos3OmniTransformer",
    config={
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "latent_channel": 4,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "patch_latent_dim": 16,
        "rope_axes_dim": (4, 2, 2),
        "sound_dim": 4,
        "sound_gen": True,
        "vocab_size": 16,
    },
    latents=(1, 4, 2, 4, 4),
    arguments=arguments,
)

SPECS = (
    ModelSpec(
        "Cosmos3OmniTransformer",
        stacks=(
            Stack(
                "layers",
                takes=("encoder_hidden_states", "hidden_states", "rotary_emb"),
                returns=("encoder_hidden_states", "hidden_states"),
                sites={
                    "attn": (Site("self_attn"),),
                    "mlp": (Site("mlp", by_token=False), Site("mlp_moe_gen", by_token=False)),
                },
                attention={"self_attn": Cosmos3},
            ),
        ),
        exit="norm_moe_gen",  # what the other tower returns is no part of any prediction
        latents=("vision_tokens", "sound_tokens"),
        timestep="vision_timesteps",
        about="Cosmos 3, video, and sound if it is asked for",
        known_as=("cosmos-3",),
        example=EXAMPLE,
    ),
)
