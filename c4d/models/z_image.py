"""Z-Image: refiners of image and text, then one list over both; its samples are lists of tensors."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, ShardingPlan, Site, Stack, everyone, sequence
from c4d.core.types import Signal
from c4d.models.packed_processors import ZImage
from c4d.models.signals import whole

SPECS = (
    ModelSpec(
        "ZImageTransformer2DModel",
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
    ),
)
