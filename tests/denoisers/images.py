"""The denoisers of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand

TEXT = 5  # tokens of a prompt
SIDE = 4  # tokens of an image along each side
TOKENS = SIDE * SIDE


def at(t: float, scale: float = 1.0) -> Tensor:
    """The timestep of a batch of one."""
    return torch.tensor([t * scale])


def text(width: int, *more: int) -> Tensor:
    """What a text encoder would give for a prompt."""
    return rand(1, *more, TEXT, width, seed=11)


def mask(kind: torch.dtype = torch.bool) -> Tensor:
    return torch.ones(1, TEXT, dtype=kind)


def grid(frame: float = 0.0, start: float = 0.0, height: int = SIDE, width: int = SIDE) -> Tensor:
    """The ids (frame, row, column) of the tokens of an image."""
    rows, columns = torch.meshgrid(torch.arange(height) + start, torch.arange(width) + start, indexing="ij")
    return torch.stack([torch.full_like(rows, frame), rows, columns], dim=-1).reshape(-1, 3)


def diagonal() -> Tensor:
    """The ids (0, i, i) of the tokens of a prompt."""
    steps = torch.arange(TEXT).float()
    return torch.stack([torch.zeros(TEXT), steps, steps], dim=-1)


def rotation(*shape: int) -> Tensor:
    return 3 * rand(*shape, seed=13)


ANGLES = rotation(TOKENS, 4).repeat_interleave(2, 1)  # a pair of neighbours has one


def stir(model: nn.Module, size: float = 0.2) -> None:
    """Random numbers for every parameter that starts as zeros: a gate, or a last layer."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0.0, size, generator=generator)


def strengthen(model: nn.Module, factor: float = 1.5) -> None:
    """Larger matrices: what a block adds counts for more, so that the size of the latents matters behind its norms."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(factor)


def fill_experts(model: nn.Module) -> None:
    """Random numbers for the weights of the experts, which diffusers leaves as the memory happens to be."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                weight.normal_(0.0, 0.2, generator=generator)


def fill_gates_and_padding(model: nn.Module) -> None:
    """As `stir`; the token for padding, which no forward reads, is left uninitialised by diffusers."""
    with torch.no_grad():
        model.get_parameter("pad_token").zero_()
    stir(model)


TWO_STREAMS = dict(patch_size=1, in_channels=8, num_layers=2, num_single_layers=2)
TWO_HEADS = dict(attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16)
PATCHES = dict(patch_size=2, in_channels=4, sample_size=8)
LATENTS = (1, 4, 2 * SIDE, 2 * SIDE)
PACKED = (1, TOKENS, 8)
SIZES = dict(
    original_size=torch.tensor([[64.0, 64.0]]),
    target_size=torch.tensor([[64.0, 64.0]]),
    crop_coords=torch.tensor([[0.0, 0.0]]),
)
PIXART = dict(
    num_attention_heads=2,
    attention_head_dim=8,
    out_channels=8,
    num_layers=3,
    cross_attention_dim=16,
    attention_bias=True,
    activation_fn="gelu-approximate",
    num_embeds_ada_norm=1000,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=12,
)


def pixart(x: Tensor, t: float) -> dict[str, Any]:
    return dict(
        hidden_states=x,
        encoder_hidden_states=text(12),
        encoder_attention_mask=mask(torch.long),
        timestep=at(t).round().long(),
        added_cond_kwargs=dict(resolution=None, aspect_ratio=None),
    )


JOY = dict(
    patch_size=[1, 2, 2],
    in_channels=4,
    hidden_size=16,
    num_attention_heads=2,
    text_dim=12,
    mlp_width_ratio=2.0,
    num_layers=3,
    rope_dim_list=[2, 2, 4],
)

ENTRIES: tuple[Denoiser, ...] = (
    Denoiser(
        name="AuraFlowTransformer2DModel",
        config=dict(
            **PATCHES,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=16,
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(hidden_states=x, encoder_hidden_states=text(12), timestep=at(t, 1e-3)),
    ),
    Denoiser(
        name="BriaFibo2Transformer2DModel",
        config=dict(
            in_channels=4,
            patch_size=2,
            dim=16,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=2,
            cap_feat_dim=12,
            injection_layer_ids=(1,),
            perceiver_num_layers=1,
            min_num_gist_tokens=2,
            max_num_gist_tokens=4,
            gist_step=1,
            gist_min_text_len=2,
            gist_max_text_len=8,
            axes_dims=(2, 2, 4),
            axes_lens=(16, 8, 8),
        ),
        latents=LATENTS,
        # One set of text features for the gist, and one for each block that reads the text.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            encoder_hidden_states=text(12, 2),
            encoder_attention_mask=mask(),
        ),
        prepare=stir,
    ),
    Denoiser(
        name="BriaFiboTransformer2DModel",
        config=dict(**TWO_STREAMS, **TWO_HEADS, axes_dims_rope=[2, 2, 4], text_encoder_dim=12),
        latents=PACKED,
        # One set of text features for each block.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t),
            encoder_hidden_states=text(16),
            text_encoder_layers=[text(12) * (1 + block) for block in range(4)],
            joint_attention_kwargs={},
            txt_ids=torch.zeros(TEXT, 3),
            img_ids=grid(),
        ),
    ),
    Denoiser(
        name="BriaTransformer2DModel",
        config=dict(**TWO_STREAMS, **TWO_HEADS, axes_dims_rope=[2, 2, 4]),
        latents=PACKED,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t),
            encoder_hidden_states=text(16),
            txt_ids=torch.zeros(TEXT, 3),
            img_ids=grid(),
        ),
    ),
    Denoiser(
        name="ChromaTransformer2DModel",
        config=dict(
            **TWO_STREAMS,
            **TWO_HEADS,
            axes_dims_rope=(2, 2, 4),
            approximator_num_channels=16,
            approximator_hidden_dim=24,
            approximator_layers=2,
        ),
        latents=PACKED,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            encoder_hidden_states=text(16),
            txt_ids=torch.zeros(TEXT, 3),
            img_ids=grid(),
            attention_mask=torch.ones(1, TEXT + TOKENS),
        ),
    ),
    Denoiser(
        name="CogView3PlusTransformer2DModel",
        config=dict(
            **PATCHES,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=12,
            time_embed_dim=16,
            condition_dim=8,
            pos_embed_max_size=8,
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(
            hidden_states=x, encoder_hidden_states=text(12), timestep=at(t).round().long(), **SIZES
        ),
    ),
    Denoiser(
        name="CogView4Transformer2DModel",
        config=dict(
            **PATCHES,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=12,
            time_embed_dim=16,
            condition_dim=8,
            pos_embed_max_size=8,
            rope_axes_dim=(16, 16),
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(hidden_states=x, encoder_hidden_states=text(12), timestep=at(t), **SIZES),
    ),
    Denoiser(
        name="ErnieImageTransformer2DModel",
        config=dict(
            hidden_size=16,
            num_attention_heads=2,
            num_layers=3,
            ffn_hidden_size=24,
            in_channels=8,
            out_channels=8,
            patch_size=1,
            text_in_dim=12,
            rope_axes_dim=(2, 2, 4),
        ),
        latents=(1, 8, SIDE, SIDE),
        arguments=lambda x, t: dict(hidden_states=x, timestep=at(t), text_bth=text(12), text_lens=torch.tensor([TEXT])),
        prepare=stir,
    ),
    Denoiser(
        name="Flux2Transformer2DModel",
        config=dict(
            **TWO_STREAMS,
            **TWO_HEADS,
            timestep_guidance_channels=16,
            mlp_ratio=2.0,
            axes_dims_rope=(2, 2, 2, 2),
        ),
        latents=PACKED,
        # Ids of an image: (time, row, column, layer); of a prompt, the last one counts.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            guidance=torch.tensor([4.0]),
            encoder_hidden_states=text(16),
            txt_ids=nn.functional.pad(torch.arange(TEXT).view(1, TEXT, 1), (3, 0)),
            img_ids=nn.functional.pad(grid().long()[None], (0, 1)),
        ),
        prepare=strengthen,
    ),
    Denoiser(
        name="Flux3Transformer2DModel",
        config=dict(
            **TWO_HEADS,
            in_channels=8,
            cond_in_channels=8,
            num_layers=1,
            num_single_layers=3,
            timestep_channels=16,
            mlp_ratio=2.0,
            axes_dims_rope=(2, 2, 2, 2),
        ),
        latents=PACKED,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            encoder_hidden_states=text(16),
            txt_ids=nn.functional.pad(torch.arange(TEXT).view(TEXT, 1), (3, 0)),
            img_ids=nn.functional.pad(grid() * 0.5, (0, 1)),
        ),
        prepare=strengthen,
    ),
    Denoiser(
        name="GlmImageTransformer2DModel",
        config=dict(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=12,
            time_embed_dim=16,
            condition_dim=8,
            prior_vq_quantizer_codebook_size=TOKENS,
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(
            hidden_states=x,
            encoder_hidden_states=text(12),
            prior_token_id=torch.arange(TOKENS)[None],
            prior_token_drop=torch.zeros(1, TOKENS, dtype=torch.bool),
            timestep=at(t) - 1,
            target_size=SIZES["target_size"],
            crop_coords=SIZES["crop_coords"],
        ),
    ),
    Denoiser(
        name="HiDreamImageTransformer2DModel",
        config=dict(
            patch_size=2,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=6,
            num_attention_heads=2,
            caption_channels=[12, 10],
            text_emb_dim=6,
            num_routed_experts=2,
            num_activated_experts=1,
            axes_dims_rope=(2, 2, 2),
            max_resolution=(8, 8),
            llama_layers=[0, 1],
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timesteps=at(t),
            encoder_hidden_states_t5=text(12),
            encoder_hidden_states_llama3=rand(2, 1, TEXT, 10, seed=12),  # layers first
            pooled_embeds=rand(1, 6, seed=14),
        ),
    ),
    Denoiser(
        name="HunyuanDiT2DModel",
        config=dict(
            **PATCHES,
            num_attention_heads=2,
            attention_head_dim=8,
            hidden_size=16,
            num_layers=4,
            mlp_ratio=2.0,
            cross_attention_dim=12,
            cross_attention_dim_t5=8,
            pooled_projection_dim=6,
            text_len=TEXT,
            text_len_t5=TEXT,
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t).round(),
            encoder_hidden_states=text(12),
            text_embedding_mask=mask(torch.long),
            encoder_hidden_states_t5=text(8),
            text_embedding_mask_t5=mask(torch.long),
            image_meta_size=torch.tensor([[64.0, 64.0, 64.0, 64.0, 0.0, 0.0]]),
            style=torch.tensor([0]),
            image_rotary_emb=(ANGLES.cos(), ANGLES.sin()),
        ),
    ),
    Denoiser(
        name="Ideogram4Transformer2DModel",
        config=dict(
            in_channels=8,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=12,
            mrope_section=(4, 2, 2),
        ),
        latents=PACKED,
        # One sequence: zeros in the place of the prompt, then the latents; the features of the prompt, then zeros.
        arguments=lambda x, t: dict(
            hidden_states=nn.functional.pad(x, (0, 0, TEXT, 0)),
            timestep=1 - at(t, 1e-3),
            encoder_hidden_states=nn.functional.pad(text(12), (0, 0, 0, TOKENS)),
            position_ids=torch.cat([torch.arange(TEXT).view(-1, 1).expand(-1, 3), grid().long() + 65536])[None],
            segment_ids=torch.ones(1, TEXT + TOKENS, dtype=torch.long),
            indicator=torch.tensor([[3] * TEXT + [2] * TOKENS]),
        ),
    ),
    Denoiser(
        name="JoyImageEditPlusTransformer3DModel",
        config=JOY,
        latents=(1, 16, 4, 1, 2, 2),  # patches: those of the image, then those of the reference image
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t),
            encoder_hidden_states=text(12),
            encoder_hidden_states_mask=mask(torch.long),
            shape_list=[[(1, 2, 4), (1, 2, 4)]],
        ),
        prepare=stir,
    ),
    Denoiser(
        name="JoyImageEditTransformer3DModel",
        config=JOY,
        latents=(1, 2, 4, 1, SIDE, 2 * SIDE),  # the reference image, then the image
        arguments=lambda x, t: dict(hidden_states=x, timestep=at(t), encoder_hidden_states=text(12)),
        prepare=stir,
    ),
    Denoiser(
        name="Krea2Transformer2DModel",
        config=dict(
            in_channels=8,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=24,
            timestep_embed_dim=16,
            text_hidden_dim=12,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(2, 2, 4),
        ),
        latents=PACKED,
        arguments=lambda x, t: dict(
            hidden_states=x,
            encoder_hidden_states=rand(1, TEXT, 2, 12, seed=11),  # two layers of the text encoder
            timestep=at(t, 1e-3),
            position_ids=torch.cat([torch.zeros(TEXT, 3), grid()]),
            encoder_attention_mask=mask(),
        ),
        prepare=stir,
    ),
    Denoiser(
        name="LongCatImageTransformer2DModel",
        config=dict(**TWO_STREAMS, **TWO_HEADS, pooled_projection_dim=16, axes_dims_rope=[2, 2, 4]),
        latents=PACKED,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            guidance=None,
            encoder_hidden_states=text(16),
            txt_ids=diagonal(),
            img_ids=grid(frame=1.0, start=TEXT),
        ),
    ),
    Denoiser(
        name="Lumina2Transformer2DModel",
        config=dict(
            **PATCHES,
            hidden_size=24,
            num_layers=3,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(16, 8, 8),
            cap_feat_dim=12,
        ),
        latents=LATENTS,
        # The time runs the other way: 0 is noise.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=1 - at(t, 1e-3),
            encoder_hidden_states=text(12),
            encoder_attention_mask=mask(torch.long),
        ),
    ),
    Denoiser(
        name="LuminaNextDiT2DModel",
        config=dict(
            **PATCHES,
            hidden_size=16,
            num_layers=3,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            cross_attention_dim=12,
        ),
        latents=LATENTS,
        # The time runs the other way: 0 is noise.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=1 - at(t, 1e-3),
            encoder_hidden_states=text(12),
            encoder_mask=mask(torch.long),
            image_rotary_emb=torch.polar(torch.ones(8, 8, 4), rotation(8, 8, 4)),
            cross_attention_kwargs={},
        ),
        prepare=fill_gates_and_padding,
    ),
    Denoiser(
        name="NucleusMoEImageTransformer2DModel",
        config=dict(
            **TWO_HEADS,
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=3,
            num_key_value_heads=1,
            axes_dims_rope=(2, 2, 4),
            mlp_ratio=2.0,
            dense_moe_strategy="leave_first_block_dense",
            num_experts=4,
            moe_intermediate_dim=8,
            capacity_factors=2.0,
        ),
        latents=(1, TOKENS, 16),
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            encoder_hidden_states=text(16),
            encoder_hidden_states_mask=mask(),
            img_shapes=[(1, SIDE, SIDE)],
        ),
        prepare=fill_experts,
    ),
    Denoiser(
        name="OmniGenTransformer2DModel",
        config=dict(
            patch_size=2,
            in_channels=4,
            hidden_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=24,
            num_layers=3,
            pad_token_id=0,
            vocab_size=16,
            max_position_embeddings=64,
            original_max_position_embeddings=64,
            rope_scaling=dict(short_factor=[1.0] * 4, long_factor=[1.0] * 4),
            pos_embed_max_size=8,
            time_step_dim=16,
        ),
        latents=LATENTS,
        # The prompt, one token for the time, then the image; the time runs the other way: 0 is noise.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=1 - at(t, 1e-3),
            input_ids=torch.arange(1, TEXT + 1)[None],
            input_img_latents=[],
            input_image_sizes={},
            attention_mask=torch.ones(TEXT + 1 + TOKENS, TEXT + 1 + TOKENS)[None].tril(TOKENS - 1),
            position_ids=torch.arange(TEXT + 1 + TOKENS)[None],
        ),
    ),
    Denoiser(
        name="OvisImageTransformer2DModel",
        config=dict(**TWO_STREAMS, **TWO_HEADS, out_channels=8, axes_dims_rope=(2, 2, 4)),
        latents=PACKED,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            encoder_hidden_states=text(16),
            txt_ids=diagonal(),
            img_ids=grid(),
            joint_attention_kwargs={},
        ),
    ),
    Denoiser(
        name="PixArtTransformer2DModel",
        config=dict(**PATCHES, **PIXART),
        latents=LATENTS,
        arguments=pixart,
    ),
    Denoiser(
        name="PriorTransformer",
        config=dict(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=3,
            embedding_dim=12,
            num_embeddings=TEXT,
            additional_embeddings=4,
        ),
        latents=(1, 12),  # the embedding of an image
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t)[0].round().long(),
            proj_embedding=rand(1, 12, seed=14),
            encoder_hidden_states=text(12),
            attention_mask=mask(),
        ),
        prepare=stir,
    ),
    Denoiser(
        name="QwenImage21Transformer2DModel",
        config=dict(
            patch_size=1,
            in_channels=8,
            out_channels=8,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            context_in_dim=12,
            mlp_ratio=2,
            axes_dims_rope=(2, 2, 4),
        ),
        latents=PACKED,
        # Each place of an image in the prompt is 2 x 2 tokens. Its pipeline adds kv_cache unless use_kv_cache=False.
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t, 1e-3),
            encoder_hidden_states=text(12),
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, SIDE, SIDE)]],
            img_mask=torch.tensor([[False] * TEXT + [True] * (TOKENS // 4)]),
        ),
        prepare=strengthen,
    ),
    Denoiser(
        name="SD3Transformer2DModel",
        config=dict(
            **PATCHES,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=6,
            out_channels=4,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        latents=LATENTS,
        arguments=lambda x, t: dict(
            hidden_states=x,
            timestep=at(t),
            encoder_hidden_states=text(12),
            pooled_projections=rand(1, 6, seed=14),
        ),
    ),
    Denoiser(
        name="SanaTransformer2DModel",
        config=dict(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=3,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=12,
            mlp_ratio=2.0,
            sample_size=SIDE,
            qk_norm="rms_norm_across_heads",
        ),
        latents=(1, 8, SIDE, SIDE),
        arguments=lambda x, t: dict(
            hidden_states=x,
            encoder_hidden_states=text(12),
            encoder_attention_mask=mask(torch.long),
            timestep=at(t),
        ),
    ),
    Denoiser(
        name="Transformer2DModel",  # as PixArt used it before it had its own class
        config=dict(**PATCHES, **PIXART),
        latents=LATENTS,
        arguments=pixart,
    ),
    Denoiser(
        name="ZImageTransformer2DModel",
        config=dict(
            in_channels=4,
            dim=16,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=12,
            axes_dims=[2, 2, 4],
            axes_lens=[128, 8, 8],
        ),
        latents=(1, 4, 1, 2 * SIDE, 2 * SIDE),
        # Lists of samples, and the time runs the other way: 0 is noise.
        arguments=lambda x, t: dict(x=list(x), t=1 - at(t, 1e-3), cap_feats=list(text(12))),
        prepare=stir,
    ),
)

NOT_DENOISERS: dict[str, str] = {
    "DreamLiteTransformer2DModel": "It is a part of DreamLiteUNetModel, and gets no timestep there.",
    "UVit2DModel": "It takes ids of tokens and gives logits for the masked ones, and it takes no timestep.",
}
