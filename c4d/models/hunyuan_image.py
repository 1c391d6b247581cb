"""HunyuanImage 2.1: the blocks of HunyuanVideo, after one or two text encoders; the refiner's latents have frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from c4d.core.spec import AtEntry, ModelSpec, Padding, ShardingPlan
from c4d.core.types import Signal
from c4d.models.hunyuan_video import chain, modulated_input, tables
from c4d.models.joint_processors import HunyuanVideoDual, HunyuanVideoSingle

TAKES = ("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb")


def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns of tokens, after the frames of the refiner's."""
    sides, patch = named["hidden_states"].shape[2:], transformer.config.patch_size  # type: ignore[union-attr]
    return (tuple(n // p for n, p in zip(sides, patch, strict=True)),)  # type: ignore[arg-type]


SPECS = (
    ModelSpec(
        "HunyuanImageTransformer2DModel",
        stacks=chain(TAKES, HunyuanVideoDual, HunyuanVideoSingle),
        exit="norm_out",
        signals={Signal.MODULATED_INPUT: AtEntry(modulated_input)},
        sharding=ShardingPlan("x_embedder", "proj_out", outputs={"rope": tables}),
        grid=grid,
        # The forward puts what is masked of either text behind all that is not.
        padding=(
            Padding("encoder_hidden_states", "encoder_attention_mask"),
            Padding("encoder_hidden_states_2", "encoder_attention_mask_2", needs="context_embedder_2"),
        ),
        about="HunyuanImage 2.1: base, distilled (guidance and mean-flow timesteps embedded) and refiner",
        known_as=("hunyuanimage",),
    ),
)
