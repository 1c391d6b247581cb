"""DiT: class-to-image, one stream, modulated by timestep and class. Each block embeds the two by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example
from c4d.core.spec import AtEntry, ModelSpec, Site, Stack
from c4d.core.types import Signal
from c4d.models.stream_processors import SelfAttention

TAKES = (
    "hidden_states",
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "timestep",
    "cross_attention_kwargs",
    "class_labels",
)


def embedded(block: nn.Module, named: Mapping[str, Any]) -> Tensor:
    """[B, D]: timestep and class, as the first block embeds them, and after the blocks the head."""
    dtype = named["hidden_states"].dtype
    return block.norm1.emb(named["timestep"], named["class_labels"], hidden_dtype=dtype)  # type: ignore[operator, union-attr]


def modulated_input(block: nn.Module, named: Mapping[str, Any]) -> Tensor:
    """[B, tokens, D]: the first block's input after its adaptive norm."""
    x = named["hidden_states"]
    return block.norm1(x, named["timestep"], named["class_labels"], hidden_dtype=x.dtype)[0]  # type: ignore[operator]


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns of tokens."""
    patch: int = transformer.config.patch_size  # type: ignore[union-attr, assignment]
    return (tuple(n // patch for n in named["hidden_states"].shape[2:]),)


def strengthen_last(model: nn.Module) -> None:
    """A plain LayerNorm before it would hide what the blocks do."""
    model.get_parameter("proj_out_1.weight").data *= 4


EXAMPLE = Example(
    "DiTTransformer2DModel",
    config={
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 4,
        "sample_size": 8,
        "num_embeds_ada_norm": 1000,
    },
    latents=(2, 4, 8, 8),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": torch.full(x.shape[:1], t),
        "class_labels": torch.tensor([7, 1000]),  # a class, and none
    },
    prepare=strengthen_last,
)

SPECS = (
    ModelSpec(
        "DiTTransformer2DModel",
        conditional="first",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=TAKES,
                sites={"attn": (Site("attn1"),), "mlp": (Site("ff"),)},
                attention={"attn1": SelfAttention},
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: AtEntry(embedded), Signal.MODULATED_INPUT: AtEntry(modulated_input)},
        grid=grid,
        like_latents=False,  # it returns the variances of the noise, too
        about="DiT-XL/2, class to image, guided in one batch; 256 or 1024 tokens, so not over ranks",
        known_as=("dit-",),
        example=EXAMPLE,
    ),
)
