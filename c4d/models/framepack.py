"""FramePack: the blocks of HunyuanVideo over the frames that were, and the latents."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.signals import first

SPECS = (
    ModelSpec(
        "HunyuanVideoFramepackTransformer3DModel",
        stacks=(
            Stack(
                "transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "freqs_cis"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={
                    "attn": (Site("attn"),),
                    "mlp": (
                        Site("ff"),
                        Site("ff_context"),
                    ),
                },
                joined="last",
            ),
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn"),)},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_text_embed", first)},
        grid=patches,
        shared=tuple(f"indices_latents{part}" for part in ("", "_clean", "_history_2x", "_history_4x")),
        about="HunyuanVideo FramePack",
        known_as=("framepack",),
    ),
)
