"""Qwen-Image: dual-stream blocks that take text and image apart. A block returns the text first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example, Size, noise
from c4d.core.spec import TEXT_STREAM, AtEntry, ModelSpec, Padding, ShardingPlan, Site, Split, Stack, always, sequence
from c4d.core.types import Signal
from c4d.models.examples import PACKED, SIDE, TEXT, TOKENS, at, strengthen, text
from c4d.models.image_processors import QwenImage, QwenImage21

TAKES = (
    "hidden_states",
    "encoder_hidden_states",
    "encoder_hidden_states_mask",
    "temb",
    "image_rotary_emb",
    "joint_attention_kwargs",
    "modulate_index",
)


def modulated_input(block: nn.Module, named: Mapping[str, Any]) -> Tensor:
    """[B, tokens, D]: the first block's image stream after its adaptive norm; of a given image, by timestep 0."""
    before_attention, _ = block.img_mod(named["temb"]).chunk(2, -1)  # type: ignore[operator]
    normed = block.img_norm1(named["hidden_states"])  # type: ignore[operator]
    return block._modulate(normed, before_attention, named.get("modulate_index"))[0]  # type: ignore[operator]


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, Tensor]:
    """Frequencies of image tokens, [S, D/2]; those of text tokens stay."""
    image, text = rotary
    return split(image, 0), text


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Frames, rows and columns of tokens, of one image after the other (Edit)."""
    first = named["img_shapes"][0]
    return tuple(map(tuple, first if isinstance(first, list) else [first]))


def given_images(transformer: nn.Module) -> bool:
    """True if given images have timestep 0, whose modulations follow in rows of their own."""
    return bool(getattr(transformer.config, "zero_cond_t", False))


def request(transformer: nn.Module, size: Size) -> dict[str, Any]:
    """Tokens of 16 x 16 pixels; text as long as the prompt is, here of 128 tokens."""
    config: Any = transformer.config
    _, *sides = size.latents(8, patch=2)
    rows, columns = (side // 2 for side in sides)
    return {
        "hidden_states": size.empty(1, rows * columns, config.in_channels),
        "timestep": at(0.5).to(size.dtype),
        "encoder_hidden_states": size.empty(1, size.text or 128, config.joint_attention_dim),
        "img_shapes": [[(1, rows, columns)]],
    }


EXAMPLE = Example(
    "QwenImageTransformer2DModel",
    config={
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 12,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "axes_dims_rope": (4, 4, 4),
    },
    latents=(1, 20, 16),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "encoder_hidden_states": noise(1, 7, 16, seed=1),
        "img_shapes": [[(1, 4, 5)]],
    },
)

EXAMPLE_21 = Example(
    "QwenImage21Transformer2DModel",
    config={
        "patch_size": 1,
        "in_channels": 8,
        "out_channels": 8,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "context_in_dim": 12,
        "mlp_ratio": 2,
        "axes_dims_rope": (2, 2, 4),
    },
    latents=PACKED,
    # Each place of an image in the prompt is 2 x 2 tokens. Its pipeline adds kv_cache unless use_kv_cache=False.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "encoder_hidden_states": text(12),
        "encoder_hidden_states_mask": None,
        "img_shapes": [[(1, SIDE, SIDE)]],
        "img_mask": torch.tensor([[False] * TEXT + [True] * (TOKENS // 4)]),
    },
    prepare=strengthen,
)

SPECS = (
    ModelSpec(
        "QwenImageTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=TAKES,
                returns=("encoder_hidden_states", "hidden_states"),
                sites={"attn": (Site("attn"),), "mlp": (Site("img_mlp"), Site("txt_mlp", streams=(TEXT_STREAM,)))},
                attention={"attn": QwenImage},
            ),
        ),
        exit="norm_out",
        signals={Signal.MODULATED_INPUT: AtEntry(modulated_input)},
        sharding=ShardingPlan(
            "img_in",
            "proj_out",
            outputs={"pos_embed": tables},
            arguments={"": {"controlnet_block_samples": sequence}, "transformer_blocks": {"modulate_index": sequence}},
        ),
        whole_batch=given_images,
        grid=grid,
        padding=(Padding("encoder_hidden_states", "encoder_hidden_states_mask"),),
        about="Qwen-Image, Qwen-Image-Edit and Edit-Plus (given images at timestep 0), with or without a ControlNet",
        known_as=("qwen-image",),
        example=EXAMPLE,
        request=request,
    ),
    ModelSpec(
        "QwenImage21Transformer2DModel",
        stacks=(Stack("transformer_blocks", sites={"attn": (Site("attn"),)}, attention={"attn": QwenImage21}),),
        exit="norm_out",
        like_latents=False,  # it returns the text's tokens, too
        whole_batch=always,  # one more row of modulations, of timestep 0
        about="Qwen-Image 2.1, one sequence of text and image, on one device",
        known_as=("qwen-image-2.1",),
        example=EXAMPLE_21,
    ),
)
