"""What the examples of several families share: a timestep, a prompt, the places of tokens, weights that show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from c4d.core.example import noise

TEXT = 5  # tokens of a prompt
SIDE = 4  # tokens of an image along each side
TOKENS = SIDE * SIDE
LATENTS = (1, 4, 2 * SIDE, 2 * SIDE)  # of an image that is cut into patches of 2 x 2
PACKED = (1, TOKENS, 8)  # of one that comes as tokens

PATCHES = {"patch_size": 2, "in_channels": 4, "sample_size": 2 * SIDE}
TWO_HEADS = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16}
TWO_STREAMS = {"patch_size": 1, "in_channels": 8, "num_layers": 2, "num_single_layers": 2}


def at(t: float, scale: float = 1.0) -> Tensor:
    """The timestep of a batch of one, [1]."""
    return torch.tensor([t * scale])


def text(width: int, *more: int) -> Tensor:
    """What a text encoder would give for a prompt, [1, *more, TEXT, width]."""
    return noise(1, *more, TEXT, width, seed=11)


def mask(kind: torch.dtype = torch.bool) -> Tensor:
    """That of a prompt without padding, [1, TEXT]."""
    return torch.ones(1, TEXT, dtype=kind)


def cells(*sides: int) -> Tensor:
    """The indices of a grid's cells, [cells, sides]."""
    return torch.cartesian_prod(*(torch.arange(side) for side in sides))


def places(frame: float = 0.0, start: float = 0.0) -> Tensor:
    """Frame, row and column of an image's tokens, [TOKENS, 3]."""
    return cells(1, SIDE, SIDE) + torch.tensor([frame, start, start])


def diagonal() -> Tensor:
    """Those of a prompt's, (0, i, i), [TEXT, 3]."""
    return torch.arange(TEXT).float()[:, None] * torch.tensor([0.0, 1.0, 1.0])


def rotary(tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of some angles, [tokens, dim]; two neighbours along ``dim`` share one."""
    angles = noise(tokens, dim // 2, seed=41).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


def stir(model: nn.Module) -> None:
    """Random numbers for every parameter that starts as zeros: a gate, or a last layer."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.2, generator=generator)


def strengthen(model: nn.Module, factor: float = 1.5) -> None:
    """Larger matrices: what a block adds counts for more, so that the size of the latents matters behind its norms."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(factor)
