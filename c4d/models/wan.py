"""Wan 2.1 and 2.2: text, image, text+image (per-token timesteps), video control and animation; one or two experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, Size, noise
from c4d.core.spec import Causal, ModelSpec, OutputOf, ShardingPlan, Site, Split, Stack
from c4d.core.types import Signal
from c4d.models.examples import at
from c4d.models.processors import Wan, WanCross
from c4d.models.rotary import later

STREAMS = ("hidden_states", "encoder_hidden_states", "temb", "rotary_emb")
SITES = {"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("ffn"),)}
ATTENTION = {"attn1": Wan, "attn2": WanCross}
BLOCKS = Stack("blocks", takes=STREAMS, sites=SITES, attention=ATTENTION)


def temb(embedded: tuple[Any, ...]) -> Tensor:
    """[B, D], or [B, tokens, D] with per-token timesteps: the "e" of the published fits."""
    return embedded[0]


def timestep_proj(embedded: tuple[Any, ...]) -> Tensor:
    """[B, 6 D], or [B, tokens, 6 D]: the "e0" of the published fits with ``use_ret_steps``."""
    return embedded[1]


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines, [1, S, 1, D]."""
    return tuple(split(table, 1) for table in rotary)


def conditions(embedded: tuple[Any, ...], split: Split) -> tuple[Any, ...]:
    """Timesteps of each token go with the tokens, [B, S, ...]; one of a sample, text and image stay."""
    steps, rest = embedded[:2], embedded[2:]
    return (*(split(x, 1) if x.ndim == 3 else x for x in steps), *rest)


def control(embedded: Tensor, split: Split) -> Tensor:
    """The hints' tokens, of which there may be fewer: those at the end are without."""
    return split.tokens(embedded)


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Frames, rows and columns of tokens."""
    sides, patch = named["hidden_states"].shape[2:], transformer.config.patch_size  # type: ignore[union-attr]
    return (tuple(n // p for n, p in zip(sides, patch, strict=True)),)  # type: ignore[arg-type]


def request(transformer: nn.Module, size: Size) -> dict[str, Any]:
    """Latents of 8 x 8 pixels and 4 frames (TI2V-5B, with 48 channels: of 16 x 16), text of 512 tokens."""
    config: Any = transformer.config
    sides = size.latents(16 if config.in_channels == 48 else 8, 4, config.patch_size[1])
    given = {"encoder_hidden_states_image": size.empty(1, 257, config.image_dim)} if config.image_dim else {}
    return {
        "hidden_states": size.empty(1, config.in_channels, *sides),
        "timestep": at(500.0),
        "encoder_hidden_states": size.empty(1, size.text or 512, config.text_dim),
        **given,
    }


CAUSAL = Causal("rope", later)
ALIKE = {"rope": tables, "condition_embedder": conditions}
SPREAD = ShardingPlan("patch_embedding", "proj_out", outputs=ALIKE)

SIGNALS = {
    Signal.TIME_EMBEDDING: OutputOf("condition_embedder", temb),
    Signal.TIME_PROJECTION: OutputOf("condition_embedder", timestep_proj),
}

# Of small models of this family, and of those that have its blocks.
SIZES = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32}

EXAMPLE = Example(
    "WanTransformer3DModel",
    config={
        **SIZES,
        "patch_size": (1, 2, 2),
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 32,
        "num_layers": 4,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    },
    latents=(1, 4, 2, 16, 16),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": noise(1, 12, 16, seed=1),
    },
)

EXAMPLE_VACE = Example(
    "WanVACETransformer3DModel",
    config={**EXAMPLE.config, "vace_layers": [0, 2], "vace_in_channels": 6},
    latents=EXAMPLE.latents,
    arguments=lambda x, t: {
        **EXAMPLE.arguments(x, t),
        "control_hidden_states": 3.0 * noise(1, 6, 2, 16, 16, seed=5),
    },
)

EXAMPLE_ANIMATE = Example(
    "WanAnimateTransformer3DModel",
    config={
        **SIZES,
        "in_channels": 12,
        "latent_channels": 4,
        "out_channels": 4,
        "num_layers": 4,
        "image_dim": 8,
        "added_kv_proj_dim": 24,
        "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
        "motion_encoder_size": 16,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 8,
        "face_encoder_hidden_dim": 8,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 2,
    },
    latents=(1, 4, 3, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": torch.cat([x, noise(1, 8, 3, 8, 8, seed=1)], dim=1),
        "timestep": torch.tensor([int(t)]),
        "encoder_hidden_states": noise(1, 512, 8, seed=2),  # with images, the last 512 tokens are the text
        "encoder_hidden_states_image": noise(1, 3, 8, seed=3),
        "pose_hidden_states": noise(1, 4, 2, 8, 8, seed=4),
        "face_pixel_values": noise(1, 3, 5, 16, 16, seed=5),
        "motion_encode_batch_size": None,
        "attention_kwargs": None,
    },
)

SPECS = (
    ModelSpec(
        "WanTransformer3DModel",
        stacks=(BLOCKS,),
        exit="norm_out",
        signals=SIGNALS,
        sharding=SPREAD,
        grid=grid,
        about="Wan 2.1 T2V and I2V, Wan 2.2 A14B (two experts) and TI2V-5B",
        known_as=("wan",),
        example=EXAMPLE,
        request=request,
        causal=CAUSAL,
    ),
    ModelSpec(
        "WanVACETransformer3DModel",
        stacks=(Stack("vace_blocks", sites={"total": (Site(""),)}, attention=ATTENTION, side=True), BLOCKS),
        exit="norm_out",
        signals=SIGNALS,
        sharding=ShardingPlan("patch_embedding", "proj_out", outputs={**ALIKE, "vace_patch_embedding": control}),
        grid=grid,
        about="Wan VACE: the hints' blocks are skipped together with those they feed",
        known_as=("wan2.1-vace",),
        example=EXAMPLE_VACE,
    ),
    ModelSpec(
        "WanAnimateTransformer3DModel",
        stacks=(BLOCKS, Stack("face_adapter", takes=("hidden_states", "motion_vec"), interleaved=True)),
        exit="norm_out",
        signals=SIGNALS,
        grid=grid,
        about="Wan 2.2 Animate, on one device",
        known_as=("wan2.2-animate",),
        example=EXAMPLE_ANIMATE,
    ),
)
