"""FLUX.1: dual-stream blocks, then single-stream ones, as one chain. A block returns the text first."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, Size, noise
from c4d.core.spec import TEXT_STREAM, AtEntry, ModelSpec, ShardingPlan, Site, Split, Stack, sequence
from c4d.core.types import Signal
from c4d.models.examples import at, cells
from c4d.models.hunyuan_video import no_features
from c4d.models.processors import FluxDual, FluxSingle

TAKES = ("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb", "joint_attention_kwargs")
RETURNS = ("encoder_hidden_states", "hidden_states")


def modulated_input(block: nn.Module, named: Mapping[str, Any]) -> Tensor:
    """[B, tokens, D]: the first block's image stream after its adaptive norm."""
    return block.norm1(named["hidden_states"], emb=named["temb"])[0]  # type: ignore[operator]


def keep_stream(hidden_states: Tensor, **_: Any) -> Tensor:
    """An attention that changes nothing."""
    return hidden_states


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines of text, then of image tokens, [T + S, D]."""
    return tuple(split.tail(table, 0) for table in rotary)


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns of tokens, of one image after the other (Kontext, FLUX.2's references), from their places; one
    host read."""
    places = named["img_ids"]
    images = groupby((places[0] if places.ndim == 3 else places).tolist(), key=lambda place: place[0])
    sides = (zip(*image, strict=True) for _, image in images)
    return tuple((len(set(rows)), len(set(columns))) for _, rows, columns, *_ in sides)


def request(transformer: nn.Module, size: Size) -> dict[str, Any]:
    """Tokens of 16 x 16 pixels, text of 512 tokens."""
    config: Any = transformer.config
    _, *sides = size.latents(8, patch=2)
    rows, columns = (side // 2 for side in sides)
    words = size.text or 512
    return {
        "hidden_states": size.empty(1, rows * columns, config.in_channels),
        "timestep": at(0.5).to(size.dtype),
        "encoder_hidden_states": size.empty(1, words, config.joint_attention_dim),
        "pooled_projections": size.empty(1, config.pooled_projection_dim),
        "txt_ids": torch.zeros(words, 3, dtype=size.dtype),
        "img_ids": cells(1, rows, columns).to(size.dtype),
        "guidance": torch.tensor([3.5]) if config.guidance_embeds else None,
    }


# As in HunyuanVideo, but the attention of a single-stream block takes and returns one sequence.
TOTAL = Site("proj_out", bypasses={"attn": keep_stream, "proj_mlp": no_features, "act_mlp": no_features})

SITES = {"attn": (Site("attn"),), "mlp": (Site("ff"), Site("ff_context", streams=(TEXT_STREAM,)))}

# The stacks of its relatives, whose blocks take other arguments besides.
DUAL = Stack("transformer_blocks", takes=("hidden_states",), returns=RETURNS, sites=SITES, attention={"attn": FluxDual})
SINGLE = Stack(
    "single_transformer_blocks",
    takes=("hidden_states",),
    returns=RETURNS,
    sites={"attn": (Site("attn"),)},
    attention={"attn": FluxSingle},
)
SPREAD = ShardingPlan("x_embedder", "proj_out", outputs={"pos_embed": tables})

EXAMPLE = Example(
    "FluxTransformer2DModel",
    config={
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": 12,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 8,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 4, 4),
    },
    latents=(1, 20, 16),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "encoder_hidden_states": noise(1, 7, 16, seed=1),
        "pooled_projections": noise(1, 8, seed=2),
        "txt_ids": torch.arange(21.0).reshape(7, 3),  # zeros in the pipelines, which turn no text
        "img_ids": cells(1, 4, 5).float(),
        "guidance": torch.tensor([3.5]),
    },
)

SPECS = (
    ModelSpec(
        "FluxTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=TAKES,
                returns=RETURNS,
                sites=SITES,
                attention={"attn": FluxDual},
            ),
            Stack(
                "single_transformer_blocks",
                takes=TAKES,
                returns=RETURNS,
                sites={"total": (TOTAL,)},
                attention={"attn": FluxSingle},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "x_embedder",
            "proj_out",
            outputs={"pos_embed": tables},
            arguments={"": {"controlnet_block_samples": sequence, "controlnet_single_block_samples": sequence}},
        ),
        signals={Signal.MODULATED_INPUT: AtEntry(modulated_input)},
        grid=grid,
        about="FLUX.1 and FLUX.1 Kontext, with or without a ControlNet",
        known_as=("flux.",),
        example=EXAMPLE,
        request=request,
    ),
)
