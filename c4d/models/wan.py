"""Wan 2.1 and 2.2: text, image, text+image (per-token timesteps), video control and animation; one or two experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Split, Stack
from c4d.core.types import Signal
from c4d.models.processors import Wan, WanCross

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


ALIKE = {"rope": tables, "condition_embedder": conditions}
SPREAD = ShardingPlan("patch_embedding", "proj_out", outputs=ALIKE)

SIGNALS = {
    Signal.TIME_EMBEDDING: OutputOf("condition_embedder", temb),
    Signal.TIME_PROJECTION: OutputOf("condition_embedder", timestep_proj),
}

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
    ),
    ModelSpec(
        "WanAnimateTransformer3DModel",
        stacks=(
            Stack("blocks", takes=STREAMS, sites=SITES),
            Stack("face_adapter", takes=("hidden_states", "motion_vec"), interleaved=True),
        ),
        exit="norm_out",
        signals=SIGNALS,
        grid=grid,
        about="Wan 2.2 Animate, on one device",
        known_as=("wan2.2-animate",),
    ),
)
