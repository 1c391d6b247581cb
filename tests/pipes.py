"""The pipeline classes of diffusers, unmodified, around tiny random transformers, and the embedded model."""

from __future__ import annotations

from importlib.resources import files

import torch
from PIL import Image

from tests.tiny import FLUX, HUNYUAN, WAN


def wan_tiny():
    """The embedded model as it is."""
    from diffusers import WanPipeline

    return WanPipeline.from_pretrained(files("c4d") / "assets/wan_tiny")


def wan_parts():
    """VAE, scheduler, text encoder and tokenizer: those of the embedded model."""
    parts = {k: v for k, v in wan_tiny().components.items() if k in ("vae", "scheduler", "text_encoder", "tokenizer")}
    return parts, {**WAN, "in_channels": 8, "out_channels": 8, "text_dim": 64}


def transformer(seed=0, kind="WanTransformer3DModel", **config):
    import diffusers

    torch.manual_seed(seed)
    return getattr(diffusers, kind)(**config).eval()


def text_to_video():
    from diffusers import WanPipeline

    parts, config = wan_parts()
    return WanPipeline(**parts, transformer=transformer(**config)), {}


def two_experts():
    from diffusers import WanPipeline

    parts, config = wan_parts()
    pipe = WanPipeline(
        **parts, transformer=transformer(**config), transformer_2=transformer(1, **config), boundary_ratio=0.875
    )
    return pipe, {"guidance_scale_2": 3.0}


def low_noise_expert_alone():
    from diffusers import WanPipeline

    parts, config = wan_parts()
    return WanPipeline(**parts, transformer=None, transformer_2=transformer(**config), boundary_ratio=1.5), {}


def image_to_video():
    from diffusers import WanImageToVideoPipeline

    parts, config = wan_parts()
    pipe = WanImageToVideoPipeline(
        **parts, transformer=transformer(**{**config, "in_channels": 8 + 8 + 4}), image_encoder=None,
        image_processor=None, boundary_ratio=1.5, transformer_2=transformer(1, **{**config, "in_channels": 20}),
    )  # fmt: skip
    return pipe, {"image": Image.new("RGB", (32, 32), (200, 30, 30))}


def text_and_image_to_video():
    from diffusers import WanImageToVideoPipeline

    parts, config = wan_parts()
    pipe = WanImageToVideoPipeline(
        **parts, transformer=transformer(**config), image_encoder=None, image_processor=None, expand_timesteps=True
    )
    return pipe, {"image": Image.new("RGB", (32, 32), (200, 30, 30))}


def vace():
    from diffusers import WanVACEPipeline

    parts, config = wan_parts()
    # reference latents (2 x 8) and the mask folded by the VAE's spatial factor (4 x 4)
    config = {**config, "vace_layers": [0, 2], "vace_in_channels": 2 * 8 + 16}
    return WanVACEPipeline(**parts, transformer=transformer(kind="WanVACETransformer3DModel", **config)), {}


def hunyuan_video():
    """To be called with embeddings; its text encoders are far too large to build here."""
    from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline

    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        norm_num_groups=4, spatial_compression_ratio=8, temporal_compression_ratio=4, mid_block_add_attention=True,
    )  # fmt: skip
    return HunyuanVideoPipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=vae,
        transformer=transformer(kind="HunyuanVideoTransformer3DModel", **HUNYUAN),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip


def flux():
    """To be called with embeddings, too."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

    torch.manual_seed(0)
    sizes = dict(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, latent_channels=4, layers_per_block=1, shift_factor=0.1
    )
    vae = AutoencoderKL(**sizes, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    return FluxPipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=vae,
        transformer=transformer(kind="FluxTransformer2DModel", **FLUX),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def flux_with_text():
    """With tiny text encoders of random weights, whose tokenizers know letters; it can be saved and loaded."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    pipe = flux()
    config, letters = pipe.transformer.config, [chr(c) for c in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    small = dict(num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, bos_token_id=0, eos_token_id=1)
    pipe.register_modules(
        tokenizer=CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(vocab_size=len(words), hidden_size=config.pooled_projection_dim, pad_token_id=1, **small)
        ),
        tokenizer_2=T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512),
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=len(pieces), d_model=config.joint_attention_dim, d_kv=4, d_ff=8, num_layers=1, num_heads=1
            )
        ),
    )
    return pipe


PIPELINES = {f.__name__: f for f in (
    text_to_video, two_experts, low_noise_expert_alone, image_to_video, text_and_image_to_video, vace,
)}  # fmt: skip
