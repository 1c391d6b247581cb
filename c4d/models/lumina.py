"""Lumina: refiners, then one list over text and image (2), or one stream with cross-attention (Next)."""

from __future__ import annotations

from c4d.core.spec import AtEntry, ModelSpec, OutputOf, ShardingPlan, Site, Stack, everyone, sequence
from c4d.core.types import Signal
from c4d.models.grids import patches
from c4d.models.grouped_processors import Lumina2, LuminaNext, LuminaNextCross
from c4d.models.signals import first, modulated_by_temb, whole

SPECS = (
    ModelSpec(
        "Lumina2Transformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attention_mask", "image_rotary_emb", "temb"),
                sites={"attn": (Site("attn"),), "mlp": (Site("feed_forward"),)},
                attention={"attn": Lumina2},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_caption_embed", first),
            Signal.MODULATED_INPUT: AtEntry(modulated_by_temb),
        },
        sharding=ShardingPlan(  # of text and image
            "layers", "norm_out", arguments={"layers": {"attention_mask": everyone, "image_rotary_emb": sequence}}
        ),
        about="Lumina-Image 2.0",
        known_as=("lumina-image",),
    ),
    ModelSpec(
        "LuminaNextDiT2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attention_mask", "image_rotary_emb", "encoder_hidden_states", "encoder_mask"),
                sites={"attn": (Site("attn1"),), "cross_attn": (Site("attn2"),), "mlp": (Site("feed_forward"),)},
                attention={"attn1": LuminaNext, "attn2": LuminaNextCross},
            ),
        ),
        exit="norm_out",
        signals={
            Signal.TIME_EMBEDDING: OutputOf("time_caption_embed", whole),
            Signal.MODULATED_INPUT: AtEntry(modulated_by_temb),
        },
        like_latents=False,
        grid=patches,
        about="Lumina-Next",
        known_as=("lumina-next",),
    ),
)
