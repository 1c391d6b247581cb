"""The modules of the pipeline, built from configuration only: plain classes of diffusers, no download.

Pictures of 32 x 32 pixels become latents of 4 channels, 16 x 16, and 64 tokens. What is built is typed Any: the lazy
exports of diffusers are opaque to type checkers.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from c4d.bundled.glyphs import PIXELS

CHANNELS, SIDE = 4, PIXELS // 2  # of the latents
NULL_CLASS = 1000  # fixed in DiTPipeline


def make_vae(scaling_factor: float = 1.0) -> Any:
    """Two levels: one reduction by two. scaling_factor: 1 / std of the latents, once it is measured."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=PIXELS,
        scaling_factor=scaling_factor,
        mid_block_add_attention=False,
    )


def make_transformer() -> Any:
    """Six blocks of width 96. Each has its own table of 1001 labels: more than a third of its weights."""
    return DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=6,
        attention_bias=True,
        sample_size=SIDE,
        patch_size=2,
        num_embeds_ada_norm=NULL_CLASS,
    )


def make_scheduler() -> Any:
    """The noise schedule of DiT-XL/2."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="epsilon",
    )
