"""The denoisers of images whose blocks no spec describes."""

from __future__ import annotations

import torch
from torch import nn

from c4d.core.example import Example as Denoiser
from c4d.models import pixart
from c4d.models.examples import LATENTS, PACKED, TEXT, TOKENS, TWO_HEADS, TWO_STREAMS, at, places, strengthen, text

ENTRIES: tuple[Denoiser, ...] = (
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
            img_ids=places(),
        ),
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
            img_ids=nn.functional.pad(places() * 0.5, (0, 1)),
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
            target_size=torch.tensor([[64.0, 64.0]]),
            crop_coords=torch.tensor([[0.0, 0.0]]),
        ),
    ),
    Denoiser(
        name="Transformer2DModel",  # as PixArt used it before it had its own class
        config=pixart.EXAMPLE.config,
        latents=pixart.EXAMPLE.latents,
        arguments=pixart.EXAMPLE.arguments,
    ),
)

NOT_DENOISERS: dict[str, str] = {
    "DreamLiteTransformer2DModel": "It is a part of DreamLiteUNetModel, and gets no timestep there.",
    "UVit2DModel": "It takes ids of tokens and gives logits for the masked ones, and it takes no timestep.",
}
