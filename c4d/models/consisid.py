"""ConsisID: dual-stream blocks as in CogVideoX, and between them blocks that attend to a face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, noise
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.signals import whole

TEXT, IMAGE = "encoder_hidden_states", "hidden_states"


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The text, then frames, rows and columns of tokens, of latents [B, frames, C, rows, columns]."""
    patch: Any = transformer.config.patch_size  # type: ignore[union-attr]
    _, frames, _, height, width = named[IMAGE].shape
    return (named[TEXT].shape[1],), (frames, height // patch, width // patch)


def at_exit(transformer: nn.Module, named: Mapping[str, Any], streams: Mapping[str, Any]) -> Tensor:
    """The last norm is over both streams, [B, text + image, D]."""
    return torch.cat((streams[TEXT], streams[IMAGE]), 1)


def turns(tokens: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of some angles: two neighbours share one."""
    angles = noise(tokens, size // 2, seed=41).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


EXAMPLE = Example(
    "ConsisIDTransformer3DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": 8,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 8,
        "num_layers": 4,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": 6,
        "use_rotary_positional_embeddings": True,
        "is_train_face": True,
        "cross_attn_dim_head": 8,
        "cross_attn_num_heads": 2,
        "LFE_id_dim": 8,
        "LFE_vit_dim": 8,
        "LFE_depth": 5,
        "LFE_dim_head": 4,
        "LFE_num_heads": 2,
        "LFE_num_id_token": 2,
        "LFE_num_querie": 3,
        "LFE_output_dim": 32,
        "LFE_ff_mult": 2,
    },
    latents=(1, 3, 4, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": torch.cat([x, noise(1, 3, 4, 8, 8, seed=1)], dim=2),
        "encoder_hidden_states": noise(1, 6, 8, seed=2),
        "timestep": torch.tensor([int(t)]),
        "image_rotary_emb": turns(3 * 4 * 4, 24),
        "attention_kwargs": None,
        "id_vit_hidden": [noise(1, 4, 8, seed=3 + scale) for scale in range(5)],
        "id_cond": noise(1, 8, seed=9),
    },
)

SPECS = (
    ModelSpec(
        "ConsisIDTransformer3DModel",
        conditional="last",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=(IMAGE, TEXT, "temb", "image_rotary_emb"),
                returns=(IMAGE, TEXT),
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff", streams=(TEXT, IMAGE)),)},
            ),
            Stack(
                "perceiver_cross_attention",
                takes=("image_embeds", IMAGE),
                sites={"cross_attn": (Site("", by_token=False),)},
                interleaved=True,
            ),
        ),
        exit="norm_final",
        at_exit=at_exit,
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedding", whole)},
        channels=2,
        grid=grid,
        about="ConsisID",
        known_as=("consisid",),
        example=EXAMPLE,
    ),
)
