"""FramePack: the blocks of HunyuanVideo over the frames that were, and the latents."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.joint_processors import HunyuanVideoDual, HunyuanVideoSingle
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
                attention={"attn": HunyuanVideoDual},
                joined="last",
            ),
            Stack(
                "single_transformer_blocks",
                takes=("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb"),
                returns=("hidden_states", "encoder_hidden_states"),
                sites={"attn": (Site("attn"),)},
                attention={"attn": HunyuanVideoSingle},
                joined="last",
            ),
        ),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_text_embed", first)},
        grid=patches,
        about="HunyuanVideo FramePack",
        known_as=("framepack",),
    ),
)
