"""SANA-WM: linear attention that sees a camera, cross-attention to the text, a convolutional MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import whole


def fill(model: nn.Module) -> None:
    """Small random numbers for what starts as zeros: its gates."""
    for i, weight in enumerate(weight for weight in model.parameters() if not weight.any()):
        weight.data = 0.2 * noise(*weight.shape, seed=i)


def cameras() -> Tensor:
    """Of three frames the pose, and the lens."""
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[..., :3, 3] = 0.1 * noise(1, 3, 3, seed=2)
    return torch.cat([poses.flatten(2), torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(1, 3, 4)], dim=-1)


EXAMPLE = Example(
    "SanaWMTransformer3DModel",
    config={
        "in_channels": 4,
        "num_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "linear_head_dim": 16,
        "chunk_plucker_channels": 12,
        "chunk_plucker_post_attn_blocks": 4,
        "image_size": 128,
        "caption_channels": 8,
    },
    latents=(1, 4, 3, 4, 4),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.tensor([[[0.0, t, t]]]),  # one a frame: the first is given
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "data_info": {"img_hw": torch.tensor([[128.0, 128.0]])},
        "mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "camera_conditions": cameras(),
        "chunk_plucker": noise(1, 12, 3, 4, 4, seed=3),
    },
    prepare=fill,
)

SPECS = (
    ModelSpec(
        "SanaWMTransformer3DModel",
        stacks=(
            Stack(
                "blocks",
                takes=(
                    "hidden_states",
                    "y",
                    "t",
                    "mask",
                    "THW",
                    "rotary_emb",
                    "block_mask",
                    "camera_conditions",
                    "ucpe_ray_transforms",
                    "plucker_emb",
                    "frame_valid_mask",
                    "chunk_size",
                ),
                sites={
                    "attn": (Site("attn"),),
                    "cross_attn": (Site("cross_attn"),),
                    "mlp": (Site("mlp", by_token=False),),
                },
            ),
        ),
        exit="final_layer",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("t_embedder", whole),
            Signal.TIME_PROJECTION: OutputOf("t_block", whole),
        },
        grid=patches,
        about="SANA-WM",
        known_as=("sana-wm",),
        example=EXAMPLE,
    ),
)
