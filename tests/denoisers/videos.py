"""The denoisers of videos whose blocks no spec describes, as their pipelines call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand
from c4d.models import any_flow
from c4d.models.examples import at, rotary, stir


def _mask_uncompiled(model: nn.Module) -> None:
    """Its first step would compile the mask of its attention, which takes seconds and a compiler."""
    from diffusers.models.transformers import transformer_wan_animate_2 as module

    create = module.create_block_mask
    module.create_block_mask = lambda *args, **kwargs: create(*args, **{**kwargs, "_compile": False})
    try:
        model.block_masks[3, 16] = model.create_mask(3, 16, torch.device("cpu"))
    finally:
        module.create_block_mask = create


def _anyflow_far(x: Tensor, t: float) -> Mapping[str, Any]:
    """The fourth chunk of frames: the keys and values of the ones before it are given, of the first one compressed."""
    return dict(
        **any_flow.EXAMPLE.arguments(x, t),
        chunk_partition=[1, 3, 3, 3],
        kv_cache={
            layer: dict(
                full_cache=rand(2, 1, 2, 144, 12, seed=50 + layer),
                compressed_cache=rand(2, 1, 2, 24, 12, seed=60 + layer),
            )
            for layer in range(3)
        },
        kv_cache_flag={"num_cached_chunks": 3, "is_cache_step": False},
    )


def _consisid(x: Tensor, t: float) -> Mapping[str, Any]:
    _, frames, _, height, width = x.shape
    return dict(
        hidden_states=torch.cat([x, rand(1, 3, 4, 8, 8, seed=1)], dim=2),
        encoder_hidden_states=rand(1, 6, 8, seed=2),
        timestep=torch.tensor([int(t)]),
        image_rotary_emb=rotary(frames * height * width // 4, 24),
        attention_kwargs=None,
        id_vit_hidden=[rand(1, 4, 8, seed=3 + scale) for scale in range(5)],
        id_cond=rand(1, 8, seed=9),
    )


def _kandinsky5(x: Tensor, t: float) -> Mapping[str, Any]:
    """Channels last."""
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        pooled_projections=rand(1, 8, seed=2),
        timestep=at(t),
        visual_rope_pos=[torch.arange(3), torch.arange(4), torch.arange(4)],
        text_rope_pos=torch.arange(6),
        scale_factor=(1.0, 2.0, 2.0),
        sparse_params=None,
    )


def _kandinsky6(x: Tensor, t: float) -> Mapping[str, Any]:
    """Channels last; the sound beside the video."""
    return dict(
        hidden_states=torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[..., :1])], dim=-1),
        audio_hidden_states=x.reshape(1, -1, 4)[:, :10],
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        pooled_projections=rand(1, 8, seed=2),
        timestep=at(t),
        visual_rope_pos=(torch.arange(3), torch.arange(4), torch.arange(4)),
        encoder_attention_mask=None,
        visual_token_type_ids=None,
    )


def _kandinsky6_sr(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[..., :1])], dim=-1),
        timestep=at(t),
    )


def _latte(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        timestep=torch.tensor([int(t)]),
        enable_temporal_attentions=True,
    )


def _motif(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[:, :1])], dim=1),
        timestep=at(t),
        attention_kwargs=None,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
    )


def _sana_wm(x: Tensor, t: float) -> Mapping[str, Any]:
    """A timestep a frame: the first one is given, and its timestep 0."""
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[..., :3, 3] = 0.1 * rand(1, 3, 3, seed=2)
    lens = torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(1, 3, 4)
    return dict(
        hidden_states=x,
        timestep=torch.tensor([[[0.0, t, t]]]),
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        data_info={"img_hw": torch.tensor([[128.0, 128.0]])},
        mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
        camera_conditions=torch.cat([poses.flatten(2), lens], dim=-1),
        chunk_plucker=rand(1, 12, 3, 4, 4, seed=3),
    )


def _sana_wm_refiner(x: Tensor, t: float) -> Mapping[str, Any]:
    """The keys and values of a first block and of the ones shortly before are given."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

    def turned(seed: int) -> tuple[Tensor, Tensor]:
        angles = rand(1, 8, 16, seed=seed).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()

    cache = SanaWMRefinerKVCache(3)
    cache.sink_pe = turned(31)
    for layer in range(3):
        cache.get(layer).store_sink(rand(1, 8, 32, seed=50 + layer), rand(1, 8, 32, seed=60 + layer))
        cache.get(layer).store_history(rand(1, 8, 32, seed=70 + layer), rand(1, 8, 32, seed=80 + layer))
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        timestep=torch.full(x.shape[:2], t),
        video_rotary_emb=turned(32),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
        kv_cache=cache,
        kv_cache_mode="inject",
    )


def _wan_animate2(x: Tensor, t: float) -> Mapping[str, Any]:
    """A step; the keys and values of the driving video, which another forward fills in, are given."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    cache = WanAnimate2KVCache(3)
    for layer in range(3):
        cache.get(layer).store(rand(1, 48, 2, 12, seed=50 + layer), rand(1, 48, 2, 12, seed=60 + layer))
    return dict(
        hidden_states=list(x),
        timestep=torch.tensor([int(t)]),
        encoder_hidden_states=[rand(6, 8, seed=1)],
        condition_latents=[rand(8, 4, 8, 8, seed=2)],
        kv_cache=cache,
        kv_cache_mode="cached",
        seq_len=64,
        encoder_hidden_states_image=rand(1, 3, 1280, seed=3),
        reference_grid_sizes=torch.tensor([[3, 4, 4]]),
        origin_len=9,
        origin_area=[64, 64],
        is_uncondtion=False,
    )


ENTRIES: tuple[Denoiser, ...] = (
    Denoiser(
        "AnyFlowFARTransformer3DModel",
        dict(**any_flow.EXAMPLE.config, chunk_partition=(1, 3, 3, 3)),
        any_flow.EXAMPLE.latents,
        _anyflow_far,
    ),
    Denoiser(
        "ConsisIDTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=8,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=8,
            num_layers=4,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=6,
            use_rotary_positional_embeddings=True,
            is_train_face=True,
            cross_attn_dim_head=8,
            cross_attn_num_heads=2,
            LFE_id_dim=8,
            LFE_vit_dim=8,
            LFE_depth=5,
            LFE_dim_head=4,
            LFE_num_heads=2,
            LFE_num_id_token=2,
            LFE_num_querie=3,
            LFE_output_dim=32,
            LFE_ff_mult=2,
        ),
        (1, 3, 4, 8, 8),
        _consisid,
    ),
    Denoiser(
        "LatteTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=8,  # the variance too, which its pipeline drops
            num_layers=2,
            cross_attention_dim=32,
            attention_bias=True,
            sample_size=8,
            patch_size=2,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            caption_channels=8,
            video_length=3,
        ),
        (1, 4, 3, 8, 8),
        _latte,
    ),
    Denoiser(
        "MotifVideoTransformer3DModel",
        dict(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_single_layers=3,
            num_decoder_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=8,
            rope_axes_dim=(4, 6, 6),
            enable_text_cross_attention_dual=True,
            enable_text_cross_attention_single=True,
        ),
        (1, 4, 3, 8, 8),
        _motif,
    ),
    Denoiser(
        "SanaWMLTX2RefinerTransformer3DModel",
        dict(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            audio_in_channels=8,
            audio_out_channels=8,
            audio_num_attention_heads=2,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=16,
            num_layers=3,
            caption_channels=8,
        ),
        (1, 8, 8),
        _sana_wm_refiner,
    ),
    Denoiser(
        "SanaWMTransformer3DModel",
        dict(
            in_channels=4,
            num_layers=4,
            hidden_size=32,
            num_attention_heads=2,
            linear_head_dim=16,
            chunk_plucker_channels=12,
            chunk_plucker_post_attn_blocks=4,
            image_size=128,
            caption_channels=8,
        ),
        (1, 4, 3, 4, 4),
        _sana_wm,
        prepare=stir,
    ),
    Denoiser(
        "WanAnimate2Transformer3DModel",
        dict(text_len=8, in_dim=12, dim=24, ffn_dim=32, freq_dim=16, text_dim=8, out_dim=4, num_heads=2, num_layers=3),
        (1, 4, 4, 8, 8),
        _wan_animate2,
        prepare=_mask_uncompiled,
    ),
)

NOT_DENOISERS: dict[str, str] = {}
