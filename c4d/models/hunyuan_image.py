"""HunyuanImage 2.1: the blocks of HunyuanVideo, after one or two text encoders; the refiner's latents have frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from c4d.core.example import Example, noise
from c4d.core.spec import AtEntry, ModelSpec, Padding, ShardingPlan
from c4d.core.types import Signal
from c4d.models.examples import at
from c4d.models.hunyuan_video import chain, modulated_input, tables
from c4d.models.joint_processors import HunyuanVideoDual, HunyuanVideoSingle

TAKES = ("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb")


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns of tokens, after the frames of the refiner's."""
    sides, patch = named["hidden_states"].shape[2:], transformer.config.patch_size  # type: ignore[union-attr]
    return (tuple(n // p for n, p in zip(sides, patch, strict=True)),)  # type: ignore[arg-type]


EXAMPLE = Example(
    "HunyuanImageTransformer2DModel",
    config={
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "patch_size": (1, 1),
        "text_embed_dim": 16,
        "rope_axes_dim": (4, 6),
    },
    latents=(1, 4, 4, 5),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": noise(1, 12, 16, seed=1),
        "encoder_attention_mask": torch.tensor([[1.0] * 9 + [0.0] * 3]),
    },
)

SPECS = (
    ModelSpec(
        "HunyuanImageTransformer2DModel",
        stacks=chain(TAKES, HunyuanVideoDual, HunyuanVideoSingle),
        exit="norm_out",
        signals={Signal.MODULATED_INPUT: AtEntry(modulated_input)},
        sharding=ShardingPlan("x_embedder", "proj_out", outputs={"rope": tables}),
        grid=grid,
        # The forward puts what is masked of either text behind all that is not.
        padding=(
            Padding("encoder_hidden_states", "encoder_attention_mask"),
            Padding("encoder_hidden_states_2", "encoder_attention_mask_2", needs="context_embedder_2"),
        ),
        about="HunyuanImage 2.1: base, distilled (guidance and mean-flow timesteps embedded) and refiner",
        known_as=("hunyuanimage",),
        example=EXAMPLE,
    ),
)
