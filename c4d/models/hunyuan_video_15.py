"""HunyuanVideo 1.5: dual-stream blocks alone."""

from __future__ import annotations

import torch

from c4d.core.example import Example, noise
from c4d.core.spec import TEXT_STREAM, AtEntry, ModelSpec, OutputOf, ShardingPlan, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import at
from c4d.models.flux import modulated_input
from c4d.models.grids import patches
from c4d.models.hunyuan_video import tables
from c4d.models.joint_processors import HunyuanVideo15
from c4d.models.signals import whole

EXAMPLE = Example(
    "HunyuanVideo15Transformer3DModel",
    config={
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "num_refiner_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "text_embed_2_dim": 8,
        "image_embed_dim": 8,
        "rope_axes_dim": (4, 6, 6),
    },
    latents=(1, 4, 3, 4, 4),
    arguments=lambda x, t: {
        "hidden_states": torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[:, :1])], dim=1),
        "image_embeds": torch.zeros(1, 3, 8),  # zeros: there is no image
        "timestep": at(t),
        "attention_kwargs": None,
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "encoder_hidden_states_2": noise(1, 4, 8, seed=2),
        "encoder_attention_mask_2": torch.tensor([[1.0, 1.0, 0.0, 0.0]]),
    },
)

SPECS = (
    ModelSpec(
        "HunyuanVideo15Transformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "freqs_cis"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={
                    "attn": (Site("attn"),),
                    "mlp": (
                        Site("ff"),
                        Site("ff_context", streams=(TEXT_STREAM,)),
                    ),
                },
                attention={"attn": HunyuanVideo15},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_embed", whole),
            Signal.MODULATED_INPUT: AtEntry(modulated_input),
        },
        sharding=ShardingPlan("x_embedder", "proj_out", outputs={"rope": tables}),
        grid=patches,
        about="HunyuanVideo 1.5, text and image to video",
        known_as=("hunyuanvideo-1.5",),
        example=EXAMPLE,
    ),
)
