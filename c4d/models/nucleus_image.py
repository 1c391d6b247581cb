"""Nucleus-Image: one stream with a mixture of experts."""

from __future__ import annotations

import torch
from torch import nn

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import SIDE, TOKENS, TWO_HEADS, at, mask, text
from c4d.models.grouped_processors import Nucleus
from c4d.models.signals import whole


def experts(model: nn.Module) -> None:
    """Random numbers for their weights, which diffusers leaves as the memory happens to be."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                weight.normal_(0.0, 0.2, generator=generator)


EXAMPLE = Example(
    "NucleusMoEImageTransformer2DModel",
    config={
        **TWO_HEADS,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 3,
        "num_key_value_heads": 1,
        "axes_dims_rope": (2, 2, 4),
        "mlp_ratio": 2.0,
        "dense_moe_strategy": "leave_first_block_dense",
        "num_experts": 4,
        "moe_intermediate_dim": 8,
        "capacity_factors": 2.0,
    },
    latents=(1, TOKENS, 16),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "encoder_hidden_states": text(16),
        "encoder_hidden_states_mask": mask(),
        "img_shapes": [(1, SIDE, SIDE)],
    },
    prepare=experts,
)

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
        example=EXAMPLE,
    ),
)
