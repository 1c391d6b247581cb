"""HunyuanVideo: dual-stream blocks, then single-stream ones, as one chain; text-to-video and both image variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.attention import Processor
from c4d.core.example import Example, Size, noise
from c4d.core.spec import TEXT_STREAM, AtEntry, ModelSpec, Padding, ShardingPlan, Site, Split, Stack
from c4d.core.types import Signal
from c4d.models.examples import at
from c4d.models.joint_processors import HunyuanVideoDual, HunyuanVideoSingle

STREAMS = (
    "hidden_states",
    "encoder_hidden_states",
    "temb",
    "attention_mask",
    "image_rotary_emb",
    "token_replace_emb",
    "num_tokens",
)
BOTH = ("hidden_states", "encoder_hidden_states")


def modulated_input(block: nn.Module, named: Mapping[str, Any]) -> Tensor:
    """[B, tokens, D]: the first block's image stream after its adaptive norm."""
    replaced = named.get("token_replace_emb")
    extra = {} if replaced is None else {"token_replace_emb": replaced, "first_frame_num_tokens": named["num_tokens"]}
    return block.norm1(named["hidden_states"], emb=named["temb"], **extra)[0]  # type: ignore[operator]


def keep_streams(hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """An attention that changes nothing: both streams have the shapes that the block cuts them to."""
    return hidden_states, encoder_hidden_states


def no_features(x: Tensor) -> Tensor:
    """A projection to nothing: concatenated with the attention output it costs no bytes."""
    return x[..., :0]


def tables(rotary: tuple[Tensor, Tensor], split: Split) -> tuple[Tensor, ...]:
    """Cosines and sines, [S, D]."""
    return tuple(split(table, 0) for table in rotary)


def leading(count: int, split: Split) -> int:
    """Of the tokens of the given first frame."""
    return split.before(count)


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Frames, rows and columns of tokens."""
    frames, rows, columns = named["hidden_states"].shape[2:]
    time, space = transformer.config.patch_size_t, transformer.config.patch_size  # type: ignore[union-attr]
    return ((frames // time, rows // space, columns // space),)


def request(transformer: nn.Module, size: Size) -> dict[str, Any]:
    """Latents of 8 x 8 pixels and 4 frames, text of 256 tokens without padding."""
    config: Any = transformer.config
    words = size.text or 256
    return {
        "hidden_states": size.empty(1, config.in_channels, *size.latents(8, 4, config.patch_size)),
        "timestep": at(500.0),
        "encoder_hidden_states": size.empty(1, words, config.text_embed_dim),
        "encoder_attention_mask": torch.ones(1, words),
        "pooled_projections": size.empty(1, config.pooled_projection_dim),
        "guidance": torch.tensor([6000.0]) if config.guidance_embeds else None,
    }


# A single-stream block projects attention and MLP together; what its reuse leaves are modulation and adds.
TOTAL = Site("proj_out", bypasses={"attn": keep_streams, "proj_mlp": no_features, "act_mlp": no_features})


def chain(takes: tuple[str, ...], dual: type[Processor], single: type[Processor]) -> tuple[Stack, Stack]:
    """Dual-stream blocks, then single-stream ones, which both take image and text apart and return the image first."""
    both = {"attn": (Site("attn"),), "mlp": (Site("ff"), Site("ff_context", streams=(TEXT_STREAM,)))}
    return (
        Stack("transformer_blocks", takes, BOTH, both, {"attn": dual}),
        Stack("single_transformer_blocks", takes, BOTH, {"total": (TOTAL,)}, {"attn": single}),
    )


EXAMPLE = Example(
    "HunyuanVideoTransformer3DModel",
    config={
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
    },
    latents=(1, 4, 2, 4, 4),
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": noise(1, 12, 16, seed=1),
        "encoder_attention_mask": torch.tensor([[1.0] * 9 + [0.0] * 3]),
        "pooled_projections": noise(1, 8, seed=2),
        "guidance": torch.tensor([6000.0]),
    },
)

SPECS = (
    ModelSpec(
        "HunyuanVideoTransformer3DModel",
        stacks=chain(STREAMS, HunyuanVideoDual, HunyuanVideoSingle),
        exit="norm_out",
        signals={Signal.MODULATED_INPUT: AtEntry(modulated_input)},
        sharding=ShardingPlan(
            "x_embedder",
            "proj_out",
            outputs={"rope": tables},
            arguments={
                "transformer_blocks": {"num_tokens": leading},
                "single_transformer_blocks": {"num_tokens": leading},
            },
        ),
        grid=grid,
        padding=(Padding("encoder_hidden_states", "encoder_attention_mask"),),
        about="HunyuanVideo T2V and I2V (latent concatenation and token replacement)",
        known_as=("hunyuanvideo",),
        example=EXAMPLE,
        request=request,
    ),
)
