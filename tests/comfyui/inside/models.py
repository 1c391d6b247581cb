"""Models of ComfyUI with few random weights, and what they are sampled with."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models_base
import torch

from tests.comfyui.inside import bridge  # noqa: F401  (before anything is sampled)

CPU = torch.device("cpu")
FLUX = {
    "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": 8, "context_in_dim": 8, "hidden_size": 32,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "dtype": torch.float32,
}  # fmt: skip
UNET = {
    "image_size": 32,
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1], "channel_mult": [1],
    "transformer_depth": [1], "transformer_depth_middle": 1, "transformer_depth_output": [1, 1], "context_dim": 8,
    "num_heads": 2, "use_spatial_transformer": True, "use_linear_in_transformer": False, "dtype": torch.float32,
}  # fmt: skip
SD3 = {
    "input_size": None, "patch_size": 2, "in_channels": 4, "depth": 1, "num_patches": 256, "pos_embed_max_size": 16,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 8, "out_features": 64}},
    "adm_in_channels": 8, "context_size": 8, "dtype": torch.float32,
}  # fmt: skip
LTXV = {
    "in_channels": 4, "cross_attention_dim": 16, "attention_head_dim": 8, "num_attention_heads": 2,
    "caption_channels": 8, "num_layers": 1, "dtype": torch.float32,
}  # fmt: skip


class Config(comfy.supported_models_base.BASE):
    unet_extra_config = {}  # noqa: RUF012  (theirs)
    latent_format = comfy.latent_formats.SD15


def patcher(kind, model_type, unet_config, scale=0.1):
    model = kind(Config(unet_config), getattr(comfy.model_base.ModelType, model_type))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def flux():
    return patcher(comfy.model_base.Flux, "FLUX", FLUX)


def unet(model_type="EPS"):
    return patcher(comfy.model_base.BaseModel, model_type, UNET)


def sd3():
    return patcher(comfy.model_base.SD3, "FLOW", SD3)


def ltxv():
    return patcher(comfy.model_base.LTXV, "FLUX", LTXV)


def rand(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cond(seed, rows=5, **more):
    given = {"pooled_output": rand(seed + 50, 1, 8), "guidance": 3.5, "attention_mask": torch.ones(1, rows), **more}
    return [[rand(seed, 1, rows, 8), given]]


def sample(model, steps=8, cfg=2.0, sampler="euler", scheduler="simple", batch=1, side=8, seed=3, frames=None, **how):
    """What ComfyUI's own KSampler makes with ``model``, of one positive and one negative condition."""
    shape = (batch, 4, *([] if frames is None else [frames]), side, side)
    latent = how.pop("latent", torch.zeros(shape))
    noise = comfy.sample.prepare_noise(torch.zeros(shape), seed)
    given = {"positive": cond(1), "negative": cond(2), "disable_pbar": True, "seed": seed} | how
    return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, latent_image=latent, **given)


class Counter:
    """How many rows went through a module: in one batch or in several."""

    def __init__(self, module):
        self.rows = []
        self.handle = module.register_forward_pre_hook(lambda module, args: self.rows.append(args[0].shape[0]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()
