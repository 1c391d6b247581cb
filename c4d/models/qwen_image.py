"""Qwen-Image: dual-stream blocks that take text and image apart. A block returns the text first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from c4d.core.spec import AtEntry, ModelSpec, Padding, ShardingPlan, Site, Split, Stack, sequence
from c4d.core.types import Signal
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


SPECS = (
    ModelSpec(
        "QwenImageTransformer2DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=TAKES,
                returns=("encoder_hidden_states", "hidden_states"),
                sites={"attn": (Site("attn"),), "mlp": (Site("img_mlp"), Site("txt_mlp"))},
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
        grid=grid,
        padding=(Padding("encoder_hidden_states", "encoder_hidden_states_mask"),),
        about="Qwen-Image, Qwen-Image-Edit and Edit-Plus (given images at timestep 0), with or without a ControlNet",
        known_as=("qwen-image",),
    ),
    ModelSpec(
        "QwenImage21Transformer2DModel",
        stacks=(Stack("transformer_blocks", sites={"attn": (Site("attn"),)}, attention={"attn": QwenImage21}),),
        exit="norm_out",
        like_latents=False,  # it returns the text's tokens, too
        about="Qwen-Image 2.1, one sequence of text and image, on one device",
        known_as=("qwen-image-2.1",),
    ),
)
