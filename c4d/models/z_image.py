"""Z-Image: refiners of image and text, then one list over both; its samples are lists of tensors."""

from __future__ import annotations

from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import Signal
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
            ),
        ),
        exit="all_final_layer.2-1",
        signals={Signal.TIME_EMBEDDING: OutputOf("t_embedder", whole)},
        latents="x",
        timestep="t",
        about="Z-Image and Z-Image-Turbo",
        known_as=("z-image",),
    ),
)
