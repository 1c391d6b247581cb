"""Z-Image: refiners of image and text, then one list over both; its samples are lists of tensors."""

from __future__ import annotations

from c4d.core.example import Example
from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack, everyone, sequence
from c4d.core.types import Signal
from c4d.models.examples import SIDE, at, stir, text
from c4d.models.packed_processors import ZImage
from c4d.models.signals import whole

EXAMPLE = Example(
    "ZImageTransformer2DModel",
    config={
        "in_channels": 4,
        "dim": 16,
        "n_layers": 3,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 12,
        "axes_dims": [2, 2, 4],
        "axes_lens": [128, 8, 8],
    },
    latents=(1, 4, 1, 2 * SIDE, 2 * SIDE),
    # Lists of samples, and the time runs the other way: 0 is noise.
    arguments=lambda x, t: {"x": list(x), "t": 1 - at(t, 1e-3), "cap_feats": list(text(12))},
    prepare=stir,
)

SPECS = (
    ModelSpec(
        "ZImageTransformer2DModel",
        conditional="first",
        stacks=(
            Stack(
                "layers",
                takes=(
                    "hidden_states",
                    "attn_mask",
                    "freqs_cis",
                    "adaln_input",
                    "noise_mask",
                    "adaln_noisy",
                    "adaln_clean",
                ),
                sites={"attn": (Site("attention"),), "mlp": (Site("feed_forward"),)},
                attention={"attention": ZImage},
            ),
        ),
        exit="all_final_layer.2-1",
        sharding=ShardingPlan(
            "layers",
            "all_final_layer.2-1",
            arguments={
                "": {"controlnet_block_samples": sequence},
                "layers": {"attn_mask": everyone, "freqs_cis": sequence, "noise_mask": sequence},
                "all_final_layer.2-1": {"noise_mask": sequence},
            },
        ),
        signals={Signal.TIME_EMBEDDING: OutputOf("t_embedder", whole)},
        latents="x",
        timestep="t",
        about="Z-Image and Z-Image-Turbo",
        known_as=("z-image",),
        example=EXAMPLE,
    ),
)
