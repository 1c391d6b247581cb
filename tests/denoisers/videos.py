"""The denoisers of videos, as their pipelines call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from c4d.core.example import Example as Denoiser
from c4d.core.example import noise as rand


def _time(t: float) -> Tensor:
    """As most pipelines pass it: one value a sample, 1000..0."""
    return torch.tensor([t])


def _grid(*sides: int) -> Tensor:
    """The indices of a grid's cells, shaped (cells, sides)."""
    return torch.cartesian_prod(*(torch.arange(side) for side in sides))


def _rotary(tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of some angles: two neighbours along ``dim`` share one."""
    angles = rand(tokens, dim // 2, seed=41).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


def _fill(model: nn.Module) -> None:
    """Small random numbers in place of parameters that are all zeros."""
    generator = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for value in model.parameters():
            if not value.any():
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))


_WAN: dict[str, Any] = dict(num_attention_heads=2, attention_head_dim=12, text_dim=8, freq_dim=16, ffn_dim=32)
_WAN_TEXT = 512  # with images, a Wan's cross-attention takes the last 512 tokens for the text


def _allegro(x: Tensor, t: float) -> Mapping[str, Any]:
    _, _, frames, height, width = x.shape
    sides = (frames, height // 2, width // 2)
    angles = [rand(side, 4, seed=40 + axis).repeat(1, 2) for axis, side in enumerate(sides)]
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
        timestep=_time(t),
        image_rotary_emb=(tuple((angle.cos(), angle.sin()) for angle in angles), tuple(_grid(*sides).T[:, None])),
    )


def _anyflow(x: Tensor, t: float) -> Mapping[str, Any]:
    """A timestep a frame, and the one at which the step ends."""
    return dict(
        hidden_states=x,
        timestep=torch.full(x.shape[:2], t),
        r_timestep=torch.full(x.shape[:2], max(t - 100, 0.0)),
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        attention_kwargs=None,
    )


def _anyflow_far(x: Tensor, t: float) -> Mapping[str, Any]:
    """The fourth chunk of frames: the keys and values of the ones before it are given, of the first one compressed."""
    return dict(
        **_anyflow(x, t),
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


def _chronoedit(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=torch.cat([x, rand(1, 8, 3, 8, 8, seed=1)], dim=1),
        timestep=_time(t),
        encoder_hidden_states=rand(1, _WAN_TEXT, 8, seed=2),
        encoder_hidden_states_image=rand(1, 3, 8, seed=3),
        attention_kwargs=None,
    )


def _cogvideox(x: Tensor, t: float) -> Mapping[str, Any]:
    _, frames, _, height, width = x.shape
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        timestep=torch.tensor([int(t)]),
        image_rotary_emb=_rotary(frames * height * width // 4, 16),
        attention_kwargs=None,
    )


def _cosmos(x: Tensor, t: float) -> Mapping[str, Any]:
    """Of Cosmos 2.5: a timestep a frame, 1..0, and a mask of the frames that are given (here none)."""
    batch, _, frames, height, width = x.shape
    return dict(
        hidden_states=x,
        condition_mask=x.new_zeros(batch, 1, frames, height, width),
        timestep=torch.full((batch, 1, frames, 1, 1), t / 1000),
        encoder_hidden_states=rand(1, 5, 12, seed=1),
        padding_mask=x.new_zeros(1, 1, 8 * height, 8 * width),
    )


def _cosmos3(x: Tensor, t: float) -> Mapping[str, Any]:
    """Text, then the patches of the video, then the sound, in one sequence without a batch side."""
    frames, height, width = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
    sound = x.reshape(-1)[: 4 * 6].reshape(4, 6)
    text, patches, seconds = 5, frames * height * width, 6
    order = torch.arange(text + patches + seconds)
    words = torch.arange(text).expand(3, -1)
    cells = _grid(frames, height, width).T + torch.tensor([[15000 + text], [0], [0]])
    sounds = _grid(seconds, 1, 1).T + torch.tensor([[15000 + text], [0], [0]])
    return dict(
        input_ids=torch.tensor([3, 1, 4, 1, 5]),
        text_indexes=order[:text],
        position_ids=torch.cat([words, cells, sounds], dim=1).float(),
        und_len=text,
        sequence_length=len(order),
        vision_tokens=[x],
        vision_token_shapes=[(frames, height, width)],
        vision_sequence_indexes=order[text : text + patches],
        vision_mse_loss_indexes=order[text : text + patches],
        vision_timesteps=torch.full((patches,), t),
        vision_noisy_frame_indexes=[torch.arange(frames)],
        sound_tokens=[sound],
        sound_token_shapes=[(seconds, 1, 1)],
        sound_sequence_indexes=order[text + patches :],
        sound_mse_loss_indexes=order[text + patches :],
        sound_timesteps=torch.full((seconds,), t),
        sound_noisy_frame_indexes=[torch.arange(seconds)],
        action_tokens=None,
        action_token_shapes=None,
        action_sequence_indexes=None,
        action_mse_loss_indexes=None,
        action_timesteps=None,
        action_noisy_frame_indexes=None,
        action_domain_ids=None,
    )


def _easyanimate(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(hidden_states=x, timestep=_time(t), encoder_hidden_states=rand(1, 6, 8, seed=1))


def _framepack(x: Tensor, t: float) -> Mapping[str, Any]:
    first, quarter, half, last, chunk = torch.arange(1 + 16 + 2 + 1 + 2).split([1, 16, 2, 1, 2])
    return dict(
        hidden_states=x,
        timestep=_time(t),
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
        pooled_projections=rand(1, 8, seed=2),
        image_embeds=rand(1, 3, 8, seed=3),
        indices_latents=chunk,
        guidance=torch.tensor([6000.0]),
        latents_clean=rand(1, 4, 2, 8, 8, seed=4),
        indices_latents_clean=torch.cat([first, last]),
        latents_history_2x=rand(1, 4, 2, 8, 8, seed=5),
        indices_latents_history_2x=half,
        latents_history_4x=rand(1, 4, 16, 8, 8, seed=6),
        indices_latents_history_4x=quarter,
        attention_kwargs=None,
    )


def _helios(x: Tensor, t: float) -> Mapping[str, Any]:
    """The frames before the chunk come along in three resolutions, the first frame of all in front."""
    first, long, mid, short, chunk = torch.arange(1 + 16 + 2 + 1 + 2).split([1, 16, 2, 1, 2])
    return dict(
        hidden_states=x,
        timestep=_time(t),
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        indices_hidden_states=chunk[None],
        indices_latents_history_short=torch.cat([first, short])[None],
        indices_latents_history_mid=mid[None],
        indices_latents_history_long=long[None],
        latents_history_short=rand(1, 4, 2, 8, 8, seed=2),
        latents_history_mid=rand(1, 4, 2, 8, 8, seed=3),
        latents_history_long=rand(1, 4, 16, 8, 8, seed=4),
        attention_kwargs=None,
    )


def _hunyuan15(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[:, :1])], dim=1),
        image_embeds=torch.zeros(1, 3, 8),  # zeros: there is no image
        timestep=_time(t),
        attention_kwargs=None,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
        encoder_hidden_states_2=rand(1, 4, 8, seed=2),
        encoder_attention_mask_2=torch.tensor([[1.0, 1.0, 0.0, 0.0]]),
    )


def _ltx(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 5, 8, seed=1),
        timestep=_time(t),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0]]),
        num_frames=3,
        height=2,
        width=2,
        rope_interpolation_scale=(8 / 25, 32, 32),
        attention_kwargs=None,
    )


def _ltx2(x: Tensor, t: float) -> Mapping[str, Any]:
    pixels = torch.tensor([8.0, 32.0, 32.0])
    start, stop = _grid(3, 2, 2) * pixels, (_grid(3, 2, 2) + 1) * pixels
    video = torch.stack([start.T, stop.T], dim=-1)[None]
    seconds = 0.04 * torch.arange(5.0)
    return dict(
        hidden_states=x,
        audio_hidden_states=x[:, :5] * 0.5,
        encoder_hidden_states=rand(1, 4, 8, seed=1),
        audio_encoder_hidden_states=rand(1, 4, 8, seed=2),
        timestep=_time(t),
        sigma=_time(t),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 0]]),
        audio_encoder_attention_mask=torch.tensor([[1, 1, 1, 0]]),
        num_frames=3,
        height=2,
        width=2,
        fps=24.0,
        audio_num_frames=5,
        video_coords=torch.cat([video[:, :1] / 24, video[:, 1:]], dim=1),
        audio_coords=torch.stack([seconds, seconds + 0.04], dim=-1)[None, None],
        isolate_modalities=False,
        spatio_temporal_guidance_blocks=None,
        perturbation_mask=None,
        use_cross_timestep=False,
        attention_kwargs=None,
    )


def _minimax_h3(x: Tensor, t: float) -> Mapping[str, Any]:
    """Text, sound and video in one sequence; timesteps 0..1 (clean), one of the video and one of the sound.

    Its pipeline passes the distinct ones: at the first step, where both are 0, there is one.
    """
    text, sound, video = torch.arange(4), torch.arange(4, 10), torch.arange(10, 18)
    sigma = t / 1000
    rows = torch.full((18,), 1 - 3 * sigma / (1 + 2 * sigma))  # two schedules, differently shifted
    rows[sound] = 1 - sigma
    timestep, indices = torch.unique(rows, sorted=True, return_inverse=True)
    tags = torch.ones(18, dtype=torch.long)
    tags[sound], tags[video] = 2, 0
    positions = torch.zeros(18, 3, dtype=torch.float64)
    positions[text, 0] = torch.arange(4.0, dtype=torch.float64)
    positions[sound, 0] = 4 + torch.arange(3.0, dtype=torch.float64).repeat(2)
    positions[sound, 2] = 16 * torch.arange(2.0, dtype=torch.float64).repeat_interleave(3)
    positions[video] = _grid(2, 2, 2) * torch.tensor([5 / 3, 16, 16], dtype=torch.float64) + torch.tensor([4, 0, 0])
    return dict(
        hidden_states=x,
        audio_hidden_states=x.reshape(1, -1, 4)[:, :6],
        encoder_hidden_states=rand(1, 4, 8, seed=1),
        timestep=timestep,
        timestep_indices=indices,
        attention_kwargs=None,
        token_tags=tags,
        position_ids=positions,
        video_indices=video,
        audio_indices=sound,
        text_indices=text,
    )


def _mochi(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 16, seed=1),
        timestep=_time(1000 - t),  # upwards
        encoder_attention_mask=torch.tensor([[True, True, True, True, False, False]]),
        attention_kwargs=None,
    )


def _sana_video(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=x,
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]]),
        timestep=_time(t),
        attention_kwargs=None,
    )


def _skyreels(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=x,
        timestep=torch.tensor([int(t)]),
        encoder_hidden_states=rand(1, 6, 8, seed=1),
        attention_kwargs=None,
    )


def _wan_animate(x: Tensor, t: float) -> Mapping[str, Any]:
    return dict(
        hidden_states=torch.cat([x, rand(1, 8, 3, 8, 8, seed=1)], dim=1),
        timestep=torch.tensor([int(t)]),
        encoder_hidden_states=rand(1, _WAN_TEXT, 8, seed=2),
        encoder_hidden_states_image=rand(1, 3, 8, seed=3),
        pose_hidden_states=rand(1, 4, 2, 8, 8, seed=4),
        face_pixel_values=rand(1, 3, 5, 16, 16, seed=5),
        motion_encode_batch_size=None,
        attention_kwargs=None,
    )


ENTRIES: tuple[Denoiser, ...] = (
    Denoiser(
        "AllegroTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=24,
            num_layers=3,
            cross_attention_dim=48,
            sample_height=8,
            sample_width=8,
            sample_frames=3,
            caption_channels=8,
        ),
        (1, 4, 3, 8, 8),
        _allegro,
    ),
    Denoiser(
        "AnyFlowFARTransformer3DModel",
        dict(**_WAN, in_channels=4, out_channels=4, num_layers=3, chunk_partition=(1, 3, 3, 3)),
        (1, 3, 4, 8, 8),
        _anyflow_far,
    ),
    Denoiser(
        "AnyFlowTransformer3DModel",
        dict(**_WAN, in_channels=4, out_channels=4, num_layers=3),
        (1, 3, 4, 8, 8),
        _anyflow,
    ),
    Denoiser(
        "ChronoEditTransformer3DModel",
        dict(**_WAN, in_channels=12, out_channels=4, num_layers=3, image_dim=8, added_kv_proj_dim=24),
        (1, 4, 3, 8, 8),
        _chronoedit,
    ),
    Denoiser(
        "CogVideoXTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=8,
            num_layers=3,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=6,
            use_rotary_positional_embeddings=True,
        ),
        (1, 3, 4, 8, 8),
        _cogvideox,
    ),
    Denoiser(
        "Cosmos3OmniTransformer",
        dict(
            head_dim=16,
            hidden_size=32,
            intermediate_size=48,
            latent_channel=4,
            num_attention_heads=2,
            num_hidden_layers=3,
            num_key_value_heads=1,
            patch_latent_dim=16,
            rope_axes_dim=(4, 2, 2),
            sound_dim=4,
            sound_gen=True,
            vocab_size=16,
        ),
        (1, 4, 2, 4, 4),
        _cosmos3,
    ),
    Denoiser(
        "CosmosTransformer3DModel",
        dict(
            in_channels=5,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=3,
            mlp_ratio=2.0,
            text_embed_dim=8,
            adaln_lora_dim=4,
            max_size=(8, 16, 16),
            concat_padding_mask=False,  # that takes torchvision
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=12,
            encoder_hidden_states_channels=8,
        ),
        (1, 4, 3, 8, 8),
        _cosmos,
    ),
    Denoiser(
        "EasyAnimateTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            sample_width=8,
            sample_height=8,
            num_layers=3,
            mmdit_layers=2,
            time_embed_dim=8,
            text_embed_dim=8,
            add_norm_text_encoder=True,
        ),
        (1, 4, 3, 8, 8),
        _easyanimate,
    ),
    Denoiser(
        "HeliosTransformer3DModel",
        dict(**_WAN, in_channels=4, out_channels=4, num_layers=3, rope_dim=(4, 4, 4), is_amplify_history=True),
        (1, 4, 2, 8, 8),
        _helios,
    ),
    Denoiser(
        "HunyuanVideo15Transformer3DModel",
        dict(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=3,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=8,
            text_embed_2_dim=8,
            image_embed_dim=8,
            rope_axes_dim=(4, 6, 6),
        ),
        (1, 4, 3, 4, 4),
        _hunyuan15,
    ),
    Denoiser(
        "HunyuanVideoFramepackTransformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_single_layers=2,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=8,
            pooled_projection_dim=8,
            rope_axes_dim=(4, 6, 6),
            has_image_proj=True,
            image_proj_dim=8,
            has_clean_x_embedder=True,
        ),
        (1, 4, 2, 8, 8),
        _framepack,
    ),
    Denoiser(
        "LTX2VideoTransformer3DModel",
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
        (1, 12, 8),
        _ltx2,
    ),
    Denoiser(
        "LTXVideoTransformer3DModel",
        dict(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=3,
            caption_channels=8,
        ),
        (1, 12, 8),
        _ltx,
    ),
    Denoiser(
        "MiniMaxH3Transformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            hidden_size=24,
            num_layers=3,
            num_refiner_layers=1,
            ffn_dim=32,
            in_channels=4,
            audio_in_channels=4,
            text_dim=8,
            freq_dim=16,
            time_embed_hidden_dim=16,
            time_embed_dim=8,
            rope_freq_dim=2,
        ),
        (1, 8, 16),
        _minimax_h3,
    ),
    Denoiser(
        "MochiTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=3,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=16,
            time_embed_dim=16,
            max_sequence_length=6,
        ),
        (1, 4, 3, 8, 8),
        _mochi,
        prepare=_fill,
    ),
    Denoiser(
        "SanaVideoTransformer3DModel",
        dict(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=3,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=8,
            sample_size=8,
        ),
        (1, 4, 3, 8, 8),
        _sana_video,
        prepare=_fill,
    ),
    Denoiser(
        "SkyReelsV2Transformer3DModel",
        dict(**_WAN, in_channels=4, out_channels=4, num_layers=3),
        (1, 4, 3, 8, 8),
        _skyreels,
    ),
    Denoiser(
        "WanAnimateTransformer3DModel",
        dict(
            **_WAN,
            in_channels=12,
            latent_channels=4,
            out_channels=4,
            num_layers=4,
            image_dim=8,
            added_kv_proj_dim=24,
            motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
            motion_encoder_size=16,
            motion_style_dim=8,
            motion_dim=4,
            motion_encoder_dim=8,
            face_encoder_hidden_dim=8,
            face_encoder_num_heads=2,
            inject_face_latents_blocks=2,
        ),
        (1, 4, 3, 8, 8),
        _wan_animate,
    ),
)

NOT_DENOISERS: dict[str, str] = {}
