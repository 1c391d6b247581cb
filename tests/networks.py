"""Tiny networks of random weights in the place of those that metrics are asked to load."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch


def clip_model(folder: Path) -> Any:
    """Saves a CLIP model of random weights with its tokenizer and processor; gives the model."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = AutoTokenizer.from_pretrained(files("c4d") / "bundled/flux_tiny/tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": words.eos_token_id or 1, "pad_token_id": words.pad_token_id or 0}
    text = {**small, **ends, "vocab_size": len(words), "max_position_embeddings": 8}
    seen = {**small, "image_size": 32, "patch_size": 8}
    torch.manual_seed(20)  # whose scores are not all negative, which counts as 0
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=seen, projection_dim=8)).eval()
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessorPil(**sizes), words).save_pretrained(folder)
    return model
