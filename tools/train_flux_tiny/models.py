"""The modules of the pipeline, built from configuration only: plain diffusers and transformers classes, no download.

Pictures of 64 x 64 pixels become latents of 4 channels, 16 x 16, and 64 tokens of 16 channels. What is built is typed
Any: the lazy exports of diffusers and transformers are opaque to type checkers.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from c4d.bundled.clips import BACKGROUNDS, COLOURS, SHAPES
from c4d.bundled.compositions import COUNTS, RELATIONS

LATENT_CHANNELS, TEXT_WIDTH = 4, 64
CLIP_LENGTH, T5_LENGTH = 16, 512  # in tokens; the longest prompt has 12 words
FLOW_SHIFT = 3.0  # of the sampler


def make_vae(scaling_factor: float = 1.0, shift_factor: float = 0.0) -> Any:
    """Three levels: two reductions by two. The factors make the latents of unit size, once they are measured."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[24, 32, 40],
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
        force_upcast=False,
    )


def make_transformer() -> Any:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 10, 10),
    )


def make_clip(vocabulary: int) -> Any:
    """Gives the pooled text: what stands at </s> after the last layer."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=128,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_LENGTH,
        attention_dropout=0.0,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
    )
    return CLIPTextModel(config)


def make_t5(vocabulary: int) -> Any:
    config = T5Config(
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
    return T5EncoderModel(config)


def make_tokenizer(length: int, *, begins: bool) -> Any:
    """One token a word; unknown words become <unk>. The order of the words is part of the trained model.

    length: the longest prompt in tokens; begins: whether a prompt starts with <s> (CLIP's do, T5's do not).
    """
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    names = [*COUNTS, *RELATIONS, *COLOURS, *SHAPES, *(f"{shape}s" for shape in SHAPES), *BACKGROUNDS]
    words = special + list(dict.fromkeys(word for name in [*names, "on", "background"] for word in name.split()))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begins else "$A </s>", special_tokens=[("</s>", 1), ("<s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_scheduler() -> Any:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=FLOW_SHIFT, use_dynamic_shifting=False)
