"""FLUX.3: text, picture and reference pictures in blocks of their own, then blocks over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, noise
from c4d.core.spec import STREAM, ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.flux import RETURNS, grid


def of_a_token(output: Any) -> Tensor:
    """[B, 3 D] of [B, S, 3 D], in which all tokens have the same."""
    found: Tensor = output[:, 0]
    return found


def strengthen(model: nn.Module) -> None:
    """Larger matrices: what a block adds counts for more, so that the latents can be told behind its norms."""
    for weight in model.parameters():
        weight.data *= 1.5 if weight.ndim > 1 else 1.0


def places(rows: int, columns: int, picture: float) -> Tensor:
    """Time, row, column and layer of each token."""
    axes = (torch.tensor([picture]), torch.arange(rows) * 0.5, torch.arange(columns) * 0.5, torch.zeros(1))
    return torch.cartesian_prod(*axes)


EXAMPLE = Example(
    "Flux3Transformer2DModel",
    config={
        "in_channels": 8,
        "cond_in_channels": 8,
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "timestep_channels": 16,
        "mlp_ratio": 2.0,
        "axes_dims_rope": (2, 2, 2, 2),
    },
    latents=(1, 16, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "encoder_hidden_states": noise(1, 5, 16, seed=11),
        "timestep": torch.tensor([t / 1000]),
        "img_ids": places(4, 4, 0.0),
        "txt_ids": torch.cartesian_prod(*[torch.zeros(1)] * 3, torch.arange(5.0)),
        "image_cond_hidden_states": noise(1, 6, 8, seed=12),
        "image_cond_ids": places(2, 3, 10.0),
    },
    prepare=strengthen,
)

TAKES = (STREAM, "temb_mod", "image_rotary_emb")
SITES = {"attn": (Site("attn"),), "mlp": (Site("ff"),)}

SPECS = (
    ModelSpec(
        "Flux3Transformer2DModel",
        stacks=(
            Stack("txt_mode_blocks", takes=TAKES, sites=SITES, side=True),
            Stack("mode_blocks.image", takes=TAKES, sites=SITES),
            Stack("mode_blocks.image_cond", takes=TAKES, sites=SITES, side=True),
            Stack("single_transformer_blocks", takes=TAKES[:1], returns=RETURNS, sites=SITES, joined="first"),
        ),
        exit="norm_out",
        signals={Signal.TIME_PROJECTION: OutputOf("early_stream_modulations.image", of_a_token)},
        grid=grid,
        about="FLUX.3, with or without reference pictures",
        known_as=("flux.3",),
        example=EXAMPLE,
    ),
)
