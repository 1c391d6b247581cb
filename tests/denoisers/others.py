"""UNets, and the transformers of audio, music and molecules whose blocks no spec describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand
from c4d.models.examples import stir


def fewer_groups(model: nn.Module) -> None:
    """A norm with a group for each channel would take the timestep, which is added to channels, out again."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 8


def step(t: float) -> Tensor:
    """The timestep of a scheduler that counts training steps: a whole number without a shape."""
    return torch.tensor(int(t))


# Two levels, one of them with attention. Of a UNet `attention_head_dim` is the number of heads.
UNET = {
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
}
UNET_2D = UNET | {
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
}
UNET_3D = UNET | {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "attention_head_dim": 2,
}
CASCADE = {
    "in_channels": 4,
    "out_channels": 4,
    "timestep_ratio_embedding_dim": 16,
    "conditioning_dim": 16,
    "block_out_channels": (16, 16),
    "num_attention_heads": (2, 2),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "clip_text_pooled_in_channels": 16,
    "clip_seq": 2,
    "dropout": (0.0, 0.0),
}


def stable_diffusion_xl(x: Tensor, t: float) -> Mapping[str, Any]:
    return {
        "sample": x,
        "timestep": torch.tensor(t),
        "encoder_hidden_states": rand(1, 6, 16, seed=1),
        "timestep_cond": None,
        "cross_attention_kwargs": None,
        "added_cond_kwargs": {
            "text_embeds": rand(1, 16, seed=2),
            "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
        },
    }


def stable_diffusion(x: Tensor, t: float) -> Mapping[str, Any]:
    return {
        "sample": x,
        "timestep": step(t),
        "encoder_hidden_states": rand(1, 6, 16, seed=1),
        "timestep_cond": None,
        "cross_attention_kwargs": None,
        "added_cond_kwargs": None,
    }


def stable_video(x: Tensor, t: float) -> Mapping[str, Any]:
    image = rand(1, 1, 4, 8, 8, seed=1).repeat(1, x.shape[1], 1, 1, 1)
    return {
        "sample": torch.cat([x, image], dim=2),
        "timestep": torch.tensor(0.25 * math.log(max(t, 1e-3))),  # a quarter of the logarithm of sigma
        "encoder_hidden_states": rand(1, 1, 16, seed=2),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]]),
    }


def stable_cascade(x: Tensor, t: float) -> Mapping[str, Any]:
    return {
        "sample": x,
        "timestep_ratio": torch.tensor([t / 1000]),
        "clip_text_pooled": rand(1, 1, 16, seed=1),
    }


def molecules(x: Tensor, t: float) -> Mapping[str, Any]:
    """A chain of tokens: coordinates of the backbone and latents of each token, with times that rise to 1."""
    tokens = x.shape[1]
    place = torch.arange(tokens)
    distance = (place[:, None] - place[None]).abs()[None]
    return {
        "bb_ca": x[..., :3],
        "local_latents": x[..., 3:],
        "bb_ca_time": torch.tensor([1 - t / 1000]),
        "local_latents_time": torch.tensor([1 - t / 1000]),
        "padding_mask": torch.ones(1, tokens, dtype=torch.bool),
        "token_type": torch.zeros(1, tokens, dtype=torch.long),
        "atom37_mask": torch.ones(1, tokens, 37, dtype=torch.bool),
        "conditioning": {
            "is_in_context_conditioning": torch.zeros(1, tokens, dtype=torch.bool),
            "supports_local_latent": torch.ones(1, tokens, dtype=torch.bool),
            "molecule_iid": torch.zeros(1, tokens, dtype=torch.long),
            "token_bond_path_length": distance,
            "bond_mask": distance == 1,
        },
        "recycle_depth": 2,  # how often the blocks run in one forward; of the released schedule 6 down to 1
        "attention_kwargs": None,
    }


ENTRIES: tuple[Denoiser, ...] = (
    Denoiser(
        "DreamLiteUNetModel",
        UNET
        | {
            "sample_size": 8,
            "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
            "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
            "attention_head_dim": 2,
            "use_linear_projection": True,
            "encoder_hid_dim": 12,
            "encoder_hid_dim_type": "text_proj_rms",
            "addition_embed_type": "time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 16,
            "ff_mult": 2,
        },
        (1, 4, 8, 8),
        lambda x, t: {
            "sample": torch.cat([x, rand(1, 4, 8, 8, seed=1)], dim=3),  # the image to edit stands to the right
            "timestep": torch.tensor([t]),
            "encoder_hidden_states": rand(1, 6, 12, seed=2),
            "encoder_attention_mask": torch.ones(1, 6, dtype=torch.long),
            "added_cond_kwargs": {"time_ids": torch.tensor([[64.0, 64.0]])},
        },
    ),
    Denoiser(
        "I2VGenXLUNet",
        UNET_3D,
        (1, 4, 3, 8, 8),
        lambda x, t: {
            "sample": x,
            "timestep": step(t),
            "encoder_hidden_states": rand(1, 6, 16, seed=1),
            "fps": torch.tensor([16]),
            "image_latents": rand(1, 4, 3, 8, 8, seed=2),
            "image_embeddings": rand(1, 1, 16, seed=3),
            "cross_attention_kwargs": None,
        },
        stir,
    ),
    Denoiser(
        "Kandinsky3UNet",
        {
            "time_embedding_dim": 16,
            "groups": 2,
            "attention_head_dim": 2,
            "layers_per_block": 2,
            "block_out_channels": (8, 8, 8, 8),  # its levels are always four
            "cross_attention_dim": 16,
            "encoder_hid_dim": 12,
        },
        (1, 4, 16, 16),
        lambda x, t: {
            "sample": x,
            "timestep": step(t),
            "encoder_hidden_states": rand(1, 6, 12, seed=1),
            "encoder_attention_mask": torch.ones(1, 6, dtype=torch.long),
        },
        stir,
    ),
    Denoiser(
        "RFD4ProteinaTransformer",
        {
            "nlayers": 4,
            "token_dim": 32,
            "nheads": 4,
            "dim_cond": 16,
            "pair_repr_dim": 16,
            "latent_dim": 8,
            "token_type_emb_dim": 8,
            "t_emb_dim": 16,
            "seq_sep_dim": 8,
            "xt_pair_dist_dim": 12,
            "tri_mult_c": 16,
            "num_sequence_classes": 20,
            "recycle_conditioning_dim": 2,
            "feats_seq": ("xt_bb_ca", "xt_local_latents", "token_type", "sequence_probabilities"),
            "feats_cond_seq": ("time_emb_bb_ca", "time_emb_local_latents", "recycle_remaining"),
            "feats_pair_repr": ("xt_bb_ca_pair_dists", "bond_mask", "molecule_idx_pair", "token_bond_path_length"),
        },
        (1, 12, 11),
        molecules,
    ),
    Denoiser(  # as the prior of Stable Cascade; its decoder is among the VARIANTS
        "StableCascadeUNet",
        CASCADE | {"clip_text_in_channels": 16, "clip_image_in_channels": 12, "switch_level": (False,)},
        (1, 4, 8, 8),
        lambda x, t: {
            **stable_cascade(x, t),
            "clip_text": rand(1, 6, 16, seed=2),
            "clip_img": rand(1, 1, 12, seed=3),
        },
    ),
    Denoiser(
        "T5FilmDecoder",
        {
            "input_dims": 8,
            "targets_length": 16,
            "d_model": 32,
            "num_layers": 3,
            "num_heads": 4,
            "d_kv": 8,
            "d_ff": 48,
        },
        (1, 16, 8),
        lambda x, t: {
            "encodings_and_masks": [
                (rand(1, 6, 32, seed=1), torch.ones(1, 6, dtype=torch.bool)),
                (rand(1, 16, 32, seed=2), torch.zeros(1, 16, dtype=torch.bool)),
            ],
            "decoder_input_tokens": x,
            "decoder_noise_time": torch.tensor([t / 1000]),
        },
    ),
    Denoiser(
        "UNet1DModel",
        {"sample_size": 32, "extra_in_channels": 16, "block_out_channels": (8, 32, 32)},
        (1, 2, 32),
        lambda x, t: {"sample": x, "timestep": torch.tensor(t / 1000)},
    ),
    Denoiser(
        "UNet2DConditionModel",
        UNET_2D
        | {
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        },
        (1, 4, 8, 8),
        stable_diffusion_xl,
    ),
    Denoiser(
        "UNet2DModel",
        {
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (16, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        (1, 3, 16, 16),
        lambda x, t: {"sample": x, "timestep": step(t)},
    ),
    Denoiser(
        "UNet3DConditionModel",
        UNET_3D,
        (1, 4, 3, 8, 8),
        lambda x, t: {
            "sample": x,
            "timestep": step(t),
            "encoder_hidden_states": rand(1, 6, 16, seed=1),
            "cross_attention_kwargs": None,
        },
        stir,
    ),
    Denoiser(
        "UNetMotionModel",
        UNET
        | {
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "motion_max_seq_length": 8,
        },
        (1, 4, 3, 8, 8),
        lambda x, t: {
            "sample": x,
            "timestep": step(t),
            "encoder_hidden_states": rand(1, 6, 16, seed=1).repeat(3, 1, 1),  # one for each frame
            "cross_attention_kwargs": None,
            "added_cond_kwargs": None,
        },
    ),
    Denoiser(
        "UNetSpatioTemporalConditionModel",
        {
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "block_out_channels": (32, 32),  # at least as many as its norms have groups
            "layers_per_block": 1,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
            "cross_attention_dim": 16,
            "num_attention_heads": (2, 2),
            "num_frames": 3,
        },
        (1, 3, 4, 8, 8),
        stable_video,
        fewer_groups,
    ),
)

# Other ways to build and call classes of ENTRIES.
VARIANTS: tuple[Denoiser, ...] = (
    Denoiser(
        "StableCascadeUNet",  # as the decoder
        CASCADE | {"patch_size": 2, "effnet_in_channels": 8, "timestep_conditioning_type": ("sca",)},
        (1, 4, 16, 16),
        lambda x, t: {**stable_cascade(x, t), "effnet": rand(1, 8, 6, 6, seed=2)},
    ),
    Denoiser("UNet2DConditionModel", UNET_2D, (1, 4, 8, 8), stable_diffusion),  # as in Stable Diffusion 1
)

NOT_DENOISERS: dict[str, str] = {
    "MiniMaxMusic3RVQDepthDecoder": "a language model that predicts the codes of a frame one by one, without timesteps",
    "MotionAdapter": "only a container of weights for UNetMotionModel: its forward does nothing",
    "TransformerTemporalModel": "a layer of UNet3DConditionModel and I2VGenXLUNet that no pipeline calls by itself",
}
