"""MiniMax-H3: one packed sequence of video, audio and text."""

from __future__ import annotations

from torch import Tensor

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Split, Stack, always
from c4d.core.types import Signal
from c4d.models.hunyuan_video import tables
from c4d.models.packed_processors import MiniMaxH3
from c4d.models.signals import whole


def rows(indices: Tensor, split: Split) -> Tensor:
    """Of each token the row of a table, [S]."""
    return split(indices, 0)


SPECS = (
    ModelSpec(
        "MiniMaxH3Transformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "temb", "adaln_indices", "rotary_emb"),
                sites={"attn": (Site("attn"),), "mlp": (Site("ff"),)},
                attention={"attn": MiniMaxH3},
            ),
        ),
        exit="norm_out",
        sharding=ShardingPlan(
            "transformer_blocks",
            "norm_out",
            outputs={"rope": tables},
            arguments={"transformer_blocks": {"adaln_indices": rows}, "norm_out": {"timestep_indices": rows}},
        ),
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embedder", whole)},
        latents=("hidden_states", "audio_hidden_states"),
        whole_batch=always,  # a row of modulations for each distinct timestep
        shared=("timestep",),
        about="MiniMax-H3, video and audio",
        known_as=("minimax-h3",),
    ),
)
