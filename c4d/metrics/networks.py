"""Scores of clips by networks whose weights are not part of this package: they are loaded where somebody says.

They run on the CPU, in float32: the same figures whatever device made the clips, and none of its memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FRAMES = 16  # at once


def lpips(net: str) -> Callable[[Tensor, Tensor, str], float]:
    """``score(clip, reference, prompt)``: LPIPS 0.1 (arXiv 1801.03924) with the trunk ``net``, mean over the frames.

    By the authors' package, which has the linear layers. torchvision loads the trunk from torch's cache (TORCH_HOME),
    or downloads it there.
    """
    from lpips import LPIPS

    network = LPIPS(net=net, verbose=False)

    def score(clip: Tensor, reference: Tensor, prompt: str) -> float:
        parts = zip(clip.split(FRAMES), reference.split(FRAMES), strict=True)
        with torch.no_grad():
            return torch.cat([network(one, other, normalize=True).flatten() for one, other in parts]).mean().item()

    return score


def clip_score(source: str) -> Callable[[Tensor, Tensor, str], float]:
    """``score(clip, reference, prompt)``: 100 max(cos, 0) between a frame and the prompt (arXiv 2104.08718, which has
    2.5 for 100), mean over the frames, in the CLIP model of ``source``, a folder or a hub id.

    A prompt longer than the model's text is cut. Raises ValueError for a folder whose weights are not all of a CLIP
    model, which transformers would fill up with random ones; OSError for what cannot be read.
    """
    from transformers import CLIPModel, CLIPProcessor

    folder = Path(os.path.expanduser(source))
    if not folder.is_dir() and (folder.is_absolute() or source.startswith(".")):
        raise FileNotFoundError(f"no folder {source!r}")
    source = str(folder) if folder.is_dir() else source
    loaded: Any = CLIPModel.from_pretrained(source, output_loading_info=True)  # its types know of one value
    model, told = loaded
    if lacking := sorted(told["missing_keys"]):
        raise ValueError(f"{source!r} lacks {len(lacking)} weights of a CLIP model, such as {lacking[0]}")
    model = model.float().eval()
    processor, longest = CLIPProcessor.from_pretrained(source), model.config.text_config.max_position_embeddings

    def score(clip: Tensor, reference: Tensor, prompt: str) -> float:
        pixels, found = clip.mul(255).round().to(torch.uint8), []
        for part in pixels.split(FRAMES):
            how = {"truncation": True, "max_length": longest, "padding": True, "return_tensors": "pt"}
            given = processor(text=[prompt], images=list(part), **how)
            with torch.no_grad():
                out = model(**given)
            found.append((out.image_embeds @ out.text_embeds.T).flatten())  # both of length 1
        return 100.0 * torch.cat(found).clamp_min(0.0).mean().item()

    return score
