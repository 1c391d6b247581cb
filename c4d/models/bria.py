"""Bria: dual-stream and single-stream blocks as in FLUX.1; Fibo 2 has one list over text and image."""

from __future__ import annotations

import torch

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
from c4d.models.examples import LATENTS, PACKED, TEXT, TWO_HEADS, TWO_STREAMS, at, mask, places, stir, text
from c4d.models.flux import DUAL, SINGLE, SPREAD, grid
from c4d.models.grids import patches
from c4d.models.packed_processors import BriaFibo2, BriaFibo2Cross
from c4d.models.signals import whole

EXAMPLE = Example(
    "BriaTransformer2DModel",
    config={**TWO_STREAMS, **TWO_HEADS, "axes_dims_rope": [2, 2, 4]},
    latents=PACKED,
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t),
        "encoder_hidden_states": text(16),
        "txt_ids": torch.zeros(TEXT, 3),
        "img_ids": places(),
    },
)

EXAMPLE_FIBO_2 = Example(
    "BriaFibo2Transformer2DModel",
    config={
        "in_channels": 4,
        "patch_size": 2,
        "dim": 16,
        "n_layers": 3,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "cap_feat_dim": 12,
        "injection_layer_ids": (1,),
        "perceiver_num_layers": 1,
        "min_num_gist_tokens": 2,
        "max_num_gist_tokens": 4,
        "gist_step": 1,
        "gist_min_text_len": 2,
        "gist_max_text_len": 8,
        "axes_dims": (2, 2, 4),
        "axes_lens": (16, 8, 8),
    },
    latents=LATENTS,
    # One set of text features for the gist, and one for each block that reads the text.
    arguments=lambda x, t: {
        "hidden_states": x,
        "timestep": at(t, 1e-3),
        "encoder_hidden_states": text(12, 2),
        "encoder_attention_mask": mask(),
    },
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "BriaTransformer2DModel",
        conditional="last",
        stacks=(DUAL, SINGLE),
        exit="norm_out",
        signals={Signal.TIME_EMBEDDING: OutputOf("time_embed", whole)},
        sharding=SPREAD,
        grid=grid,
        about="Bria 3.2",
        known_as=("bria-3",),
        example=EXAMPLE,
    ),
    ModelSpec(
        "BriaFibo2Transformer2DModel",
        stacks=(
            Stack(
                "layers",
                takes=("hidden_states", "attn_mask", "freqs_cis"),
                sites={"attn": (Site("attention"),), "mlp": (Site("feed_forward"),)},
                attention={"attention": BriaFibo2, "cross_attention": BriaFibo2Cross},
                joined="last",
            ),
        ),
        exit="final_layer",
        grid=patches,
        about="Bria Fibo 2",
        known_as=("bria-fibo-2",),
        example=EXAMPLE_FIBO_2,
    ),
)
