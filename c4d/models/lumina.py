"""Lumina: refiners, then one list over text and image (2), or one stream with cross-attention (Next)."""

from __future__ import annotations

import torch
from torch import nn

from c4d.core.example import Example, noise
from c4d.core.spec import AtEntry, ModelSpec, OutputOf, ShardingPlan, Site, Stack, everyone, sequence
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PATCHES, at, mask, stir, text
from c4d.models.grids import patches
from c4d.models.grouped_processors import Lumina2, LuminaNext, LuminaNextCross
from c4d.models.signals import first, modulated_by_temb, whole

EXAMPLE = Example(
    "Lumina2Transformer2DModel",
    config={
        **PATCHES,
        "hidden_size": 24,
        "num_layers": 3,
        "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 8,
        "axes_dim_rope": (4, 4, 4),
        "axes_lens": (16, 8, 8),
        "cap_feat_dim": 12,
    },
    latents=LATENTS,
    # The time runs the other way: 0 is noise.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": 1 - at(t, 1e-3),
        "encoder_hidden_states": text(12),
        "encoder_attention_mask": mask(torch.long),
    },
)


def gates_and_padding(model: nn.Module) -> None:
    """No forward reads the token for padding, and diffusers leaves it as the memory happens to be."""
    with torch.no_grad():
        model.get_parameter("pad_token").zero_()
    stir(model)


EXAMPLE_NEXT = Example(
    "LuminaNextDiT2DModel",
    config={
        **PATCHES,
        "hidden_size": 16,
        "num_layers": 3,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 8,
        "cross_attention_dim": 12,
    },
    latents=LATENTS,
    # The time runs the other way: 0 is noise.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": 1 - at(t, 1e-3),
        "encoder_hidden_states": text(12),
        "encoder_mask": mask(torch.long),
        "image_rotary_emb": torch.polar(torch.ones(8, 8, 4), 3 * noise(8, 8, 4, seed=13)),
        "cross_attention_kwargs": {},
    },
    prepare=gates_and_padding,
)

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
        example=EXAMPLE,
    ),
    ModelSpec(
        "LuminaNextDiT2DModel",
        conditional="first",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attention_mask", "image_rotary_emb", "encoder_hidden_states", "encoder_mask"),
                sites={
                    "attn": (Site("attn1"),),
                    "cross_attn": (Site("attn2", by_token=False),),
                    "mlp": (Site("feed_forward"),),
                },
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
        example=EXAMPLE_NEXT,
    ),
)
