"""The pipeline classes of diffusers, unmodified, around tiny random transformers, and the bundled model."""

from __future__ import annotations

from importlib.resources import files

import torch
from PIL import Image

from tests.tiny import DIT, FLUX, HUNYUAN, HUNYUAN_IMAGE, QWEN, WAN, rand, text


def wan_tiny():
    """The bundled model as it is."""
    from diffusers import WanPipeline

    return WanPipeline.from_pretrained(files("c4d") / "bundled/wan_tiny")


def wan_parts():
    """VAE, scheduler, text encoder and tokenizer: those of the bundled model."""
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


def stable_diffusion():
    """A U-Net in its pipeline, with the text encoder of FLUX.1's."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    words = flux_with_text()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=words.text_encoder.config.hidden_size,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=words.text_encoder, tokenizer=words.tokenizer, safety_checker=None,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1), feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def reader(hidden):
    """A tiny Qwen2.5-VL of random weights whose tokenizer knows bytes, and that tokenizer."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=4096)
    sizes = dict(num_attention_heads=2, intermediate_size=8)
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(words), hidden_size=hidden, num_hidden_layers=3, num_key_value_heads=2, **sizes,
            rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 2]),
            pad_token_id=256, bos_token_id=256, eos_token_id=256,
        ),
        vision_config=dict(depth=1, hidden_size=8, num_heads=2, intermediate_size=8, out_hidden_size=hidden),
    )  # fmt: skip
    torch.manual_seed(0)
    return dict(tokenizer=tokenizer, text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval())


def qwen_with_text():
    pipe, _ = qwen_image()
    pipe.register_modules(**reader(QWEN["joint_attention_dim"]))
    return pipe


def hunyuan_image_with_text():
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    pipe, _ = hunyuan_image()
    glyphs = T5Config(vocab_size=384, d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=1)
    pipe.register_modules(
        **reader(HUNYUAN_IMAGE["text_embed_dim"]), tokenizer_2=ByT5Tokenizer(), text_encoder_2=T5EncoderModel(glyphs)
    )
    return pipe


# -- pipelines of pictures: each with a function that makes a request, told apart by ``prompt``


def qwen_vae():
    from diffusers import AutoencoderKLQwenImage

    torch.manual_seed(0)
    return AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )


def qwen_texts(prompt, batch=1):
    """The prompt's text and a shorter one of what is not wanted; in a batch, the second sample's are shorter too."""
    made = {}
    for prefix, length, seed in (("", 9, ord(prompt)), ("negative_", 4, 20)):
        words = text(*[length - 2 * i for i in range(batch)], tokens=length, seed=seed)
        made[f"{prefix}prompt_embeds"], made[f"{prefix}prompt_embeds_mask"] = words.values()
    return made


def qwen_image():
    """To be called with embeddings, as all of these but DiT."""
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline

    pipe = QwenImagePipeline(
        text_encoder=None, tokenizer=None, vae=qwen_vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer(kind="QwenImageTransformer2DModel", **QWEN),
    )  # fmt: skip
    return pipe, lambda prompt: dict(**qwen_texts(prompt, batch=2), height=64, width=80, true_cfg_scale=3.0)


def qwen_edit_plus():
    """Two given images; the pipeline would enlarge them to a megapixel (see ``smaller``)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline

    pipe = QwenImageEditPlusPipeline(
        text_encoder=None, tokenizer=None, processor=None, vae=qwen_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer(kind="QwenImageTransformer2DModel", **QWEN, zero_cond_t=True),
    )  # fmt: skip
    given = [Image.new("RGB", (64, 64), (200, 30, 30)), Image.new("RGB", (64, 96), (30, 200, 30))]
    return pipe, lambda prompt: dict(**qwen_texts(prompt), image=given, height=64, width=80, true_cfg_scale=3.0)


def hunyuan_image(**config):
    from diffusers import (
        AdaptiveProjectedMixGuidance,
        AutoencoderKLHunyuanImage,
        FlowMatchEulerDiscreteScheduler,
        HunyuanImagePipeline,
    )

    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32, 32), layers_per_block=1,
        spatial_compression_ratio=8, sample_size=64, scaling_factor=0.75,
    )  # fmt: skip
    guided = not config
    pipe = HunyuanImagePipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=transformer(
            kind="HunyuanImageTransformer2DModel", **HUNYUAN_IMAGE, text_embed_2_dim=16, **config
        ),
        guider=AdaptiveProjectedMixGuidance(guidance_scale=3.0) if guided else None,
    )  # fmt: skip

    def request(prompt):
        made = dict(height=32, width=40)
        for prefix, first, second, seed in (("", 9, 3, ord(prompt)), ("negative_", 4, 0, 20)):
            both = {**text(first, seed=seed), **text(second, tokens=6, seed=seed + 1, suffix="_2")}
            names = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
            made.update({f"{prefix}{name}": x for name, x in zip(names, both.values(), strict=True)})
        return made

    return pipe, request


def hunyuan_image_distilled():
    return hunyuan_image(guidance_embeds=True, use_meanflow=True)


def hunyuan_image_refiner():
    """Of latents that are given with a picture's; it never decodes here."""
    from diffusers import AdaptiveProjectedMixGuidance, FlowMatchEulerDiscreteScheduler, HunyuanImageRefinerPipeline

    config = {**HUNYUAN_IMAGE, "in_channels": 8, "patch_size": (1, 1, 1), "rope_axes_dim": (2, 4, 4)}
    pipe = HunyuanImageRefinerPipeline(
        text_encoder=None, tokenizer=None, vae=None, scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        transformer=transformer(kind="HunyuanImageTransformer2DModel", **config, guidance_embeds=True),
        guider=AdaptiveProjectedMixGuidance(guidance_scale=3.0),
    )  # fmt: skip

    def request(prompt):
        made = dict(image=rand(1, 4, 1, 4, 5, seed=8), height=64, width=80)
        for prefix, length, seed in (("", 9, ord(prompt)), ("negative_", 4, 20)):
            words = text(length, seed=seed)
            made[f"{prefix}prompt_embeds"], made[f"{prefix}prompt_embeds_mask"] = words.values()
        return made

    return pipe, request


def flux_kontext():
    """The tokens of a given image go behind those of the one that is made; the pipeline names no branches."""
    from diffusers import FluxKontextPipeline

    parts = {**flux().components}
    pipe = FluxKontextPipeline(**parts)
    given = Image.new("RGB", (64, 32), (200, 30, 30))

    def request(prompt):
        made = dict(image=given, height=64, width=80, max_area=64 * 80, true_cfg_scale=3.0, _auto_resize=False)
        for prefix, seed in (("", ord(prompt)), ("negative_", 20)):
            made[f"{prefix}prompt_embeds"] = rand(1, 7, 16, seed=seed)
            made[f"{prefix}pooled_prompt_embeds"] = rand(1, 8, seed=seed + 1)
        return made

    return pipe, request


def flux_controlnet():
    """A ControlNet of its own class makes the residuals."""
    from diffusers import FluxControlNetModel, FluxControlNetPipeline

    torch.manual_seed(0)
    net = FluxControlNetModel(**{**FLUX, "num_layers": 1, "num_single_layers": 1}).eval()
    for block in (*net.controlnet_blocks, *net.controlnet_single_blocks):  # which are made as zeros
        torch.nn.init.normal_(block.weight, std=0.5)
    pipe = FluxControlNetPipeline(**flux().components, controlnet=net)
    drawn = Image.new("RGB", (64, 64), (30, 200, 30))

    def request(prompt):
        return dict(
            prompt_embeds=rand(1, 7, 16, seed=ord(prompt)), pooled_prompt_embeds=rand(1, 8, seed=ord(prompt) + 1),
            control_image=drawn, controlnet_conditioning_scale=0.7, height=64, width=64,
        )  # fmt: skip

    return pipe, request


def dit():
    """One call for a picture with and without its class; a scheduler that does not tell its step."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    torch.manual_seed(0)
    sizes = dict(block_out_channels=(4, 4, 4, 4), norm_num_groups=4, latent_channels=4, layers_per_block=1)
    vae = AutoencoderKL(**sizes, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    pipe = DiTPipeline(vae=vae, scheduler=DDIMScheduler(), transformer=transformer(kind="DiTTransformer2DModel", **DIT))
    return pipe, lambda prompt: dict(class_labels=[ord(prompt)], guidance_scale=3.0)


PICTURES = {f.__name__: f for f in (
    qwen_image, qwen_edit_plus, hunyuan_image, hunyuan_image_distilled, hunyuan_image_refiner, flux_kontext,
    flux_controlnet, dit,
)}  # fmt: skip
BRANCHES = {
    "hunyuan_image": {"pred_cond", "pred_uncond"}, "hunyuan_image_distilled": {"pred_cond"},
    "hunyuan_image_refiner": {"pred_cond", "pred_uncond"},
    "flux_kontext": {"0", "1"}, "flux_controlnet": {"0"}, "dit": {"0"},
}  # fmt: skip
PIPELINES = {f.__name__: f for f in (
    text_to_video, two_experts, low_noise_expert_alone, image_to_video, text_and_image_to_video, vace,
)}  # fmt: skip
