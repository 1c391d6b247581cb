"""The modules of the pipeline, built from configuration only: plain diffusers and transformers classes, no download.

Clips of 13 x 32 x 32 pixels become latents of 8 channels, 4 x 8 x 8, and 64 tokens. What is built is typed Any: the
lazy exports of diffusers and transformers are opaque to type checkers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from c4d.bundled.clips import NAMES

LATENT_CHANNELS, TEXT_WIDTH = 8, 64
FLOW_SHIFT = 3.0  # of the sampler


def make_vae(mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Any:
    """Three levels: two spatial and two temporal reductions by two.

    mean, std: of each latent channel [8], once they are measured.
    """
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=list(mean or [0.0] * LATENT_CHANNELS),
        latents_std=list(std or [1.0] * LATENT_CHANNELS),
        is_residual=True,
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    )


def make_transformer() -> Any:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=512,
        num_layers=8,
        rope_max_seq_len=64,
    )


def make_text_encoder(vocabulary: int) -> Any:
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config)


def make_tokenizer() -> Any:
    """One token a word; unknown words become <unk>. The order of the words is part of the trained model."""
    special = ["<pad>", "</s>", "<unk>"]
    plain = ["a", "an", "the", "on", "in", "of", "and", "with", "moving", "background", "video", "clip", "shape"]
    words = special + plain + [name for names in NAMES for name in names]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_scheduler() -> Any:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
    )
