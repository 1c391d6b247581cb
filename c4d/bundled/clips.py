"""Procedural captioned clips: one flat shape moves in one direction over a plain background.

There is no data set on disk: every clip is drawn from the `torch.Generator` that is passed in. A combination of
attributes is four indices: colour, shape, motion, background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

COLOURS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.90, 0.10, 0.10),
        "green": (0.10, 0.70, 0.15),
        "blue": (0.12, 0.25, 0.95),
        "yellow": (0.95, 0.85, 0.10),
        "magenta": (0.85, 0.15, 0.80),
        "cyan": (0.10, 0.80, 0.88),
    }
)
SHAPES = ("circle", "square", "triangle")
SHAPE_AREAS = (math.pi, 3.24, 3 * math.sqrt(3) * 0.49)  # area of each shape at nominal radius 1
MOTIONS = ("left", "right", "up", "down")
BACKGROUNDS: Mapping[str, float] = MappingProxyType({"black": 0.06, "gray": 0.50, "white": 0.94})
FRAMES, SIZE = 13, 32


class Attributes(NamedTuple):
    """Indices into COLOURS, SHAPES, MOTIONS and BACKGROUNDS (in the order of their names)."""

    colour: int
    shape: int
    motion: int
    background: int


NAMES: tuple[tuple[str, ...], ...] = (tuple(COLOURS), SHAPES, MOTIONS, tuple(BACKGROUNDS))
COMBINATIONS = tuple(Attributes(*indices) for indices in product(*(range(len(names)) for names in NAMES)))


def _held_out(a: Attributes) -> bool:
    return (a.colour + 2 * a.shape + 3 * a.motion + 5 * a.background) % 9 == 0


# One combination in nine is never trained on, so that adherence to unseen prompts can be measured. Every single
# value of every attribute occurs on both sides.
TRAIN = tuple(a for a in COMBINATIONS if not _held_out(a))
HELD_OUT = tuple(a for a in COMBINATIONS if _held_out(a))


def as_tensor(attributes: Tensor | Sequence[Sequence[int]]) -> Tensor:
    """Attributes of n clips -> int64 tensor [n, 4] on the CPU.

    Raises ValueError for another shape, for non-integers and for an index out of range.
    """
    indices = torch.as_tensor(attributes).cpu()
    if indices.dim() != 2 or indices.shape[1] != len(NAMES):
        raise ValueError(f"attributes have shape {tuple(indices.shape)}; allowed is [n, {len(NAMES)}]")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"attributes have dtype {indices.dtype}; allowed are integer types")
    for field, names, column in zip(Attributes._fields, NAMES, indices.unbind(1), strict=True):
        wrong = column[(column < 0) | (column >= len(names))]
        if len(wrong):
            allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
            raise ValueError(f"{field} index {int(wrong[0])} is unknown; allowed are {allowed}")
    return indices.long()


def caption(attributes: Tensor | Sequence[int]) -> str:
    """Four indices ([4] or Attributes) -> prompt, always nine words. Raises ValueError like `as_tensor`."""
    row = as_tensor(torch.as_tensor(attributes)[None])[0].tolist()
    colour, shape, motion, background = (names[i] for names, i in zip(NAMES, row, strict=True))
    return f"a {colour} {shape} moving {motion} on a {background} background"


def parse_caption(prompt: str) -> Attributes | None:
    """The inverse of `caption`, blind to case and spacing; None for any other text."""
    words = prompt.lower().split()
    if len(words) != 9 or [words[i] for i in (0, 3, 5, 6, 8)] != ["a", "moving", "on", "a", "background"]:
        return None
    found = [words[i] for i in (1, 2, 4, 7)]
    if any(word not in names for word, names in zip(found, NAMES, strict=True)):
        return None
    return Attributes(*(names.index(word) for word, names in zip(found, NAMES, strict=True)))


def sample_attributes(n: int, generator: torch.Generator, pool: Sequence[Attributes] = TRAIN) -> Tensor:
    """Draws n combinations from `pool` with replacement -> int64 [n, 4]."""
    return torch.tensor(pool)[torch.randint(0, len(pool), (n,), generator=generator)]


def signed_distance(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance, negative inside, to ideal shapes that have their centroid at the origin.

    shape: indices [n]; x, y: coordinates [n, T, H, W], y downwards; radius: nominal radius, broadcasts against x.
    The square has half side 0.9 radius, the equilateral upright triangle inradius 0.7 radius. Outside of corners the
    distance is that to the nearest edge line, which is too small; it only shapes the rim of a corner.
    """
    circle = torch.sqrt(x * x + y * y + 1e-9) - radius
    square = torch.maximum(x.abs(), y.abs()) - 0.90 * radius
    inradius = 0.70 * radius
    triangle = torch.maximum(y - inradius, 0.8660 * x.abs() - 0.5 * y - inradius)
    kind = shape.view(-1, *[1] * (x.dim() - 1))
    return torch.where(kind == 0, circle, torch.where(kind == 1, square, triangle))


def render(
    attributes: Tensor | Sequence[Sequence[int]],
    generator: torch.Generator,
    *,
    frames: int = FRAMES,
    size: int = SIZE,
    span: int = FRAMES,
) -> Tensor:
    """Draws clips with random radius, path, tint and a faint background gradient.

    attributes: n combinations, see `as_tensor`; generator: a CPU generator, the only source of randomness;
    span: the number of frames that the whole motion takes, of which `frames` are drawn.
    Returns float32 [n, 3, frames, size, size] in [0, 1]. Raises ValueError for frames or size below 1, span below 2.
    """
    if frames < 1 or size < 1 or span < 2:
        raise ValueError(f"frames={frames}, size={size}, span={span}; allowed are frames >= 1, size >= 1, span >= 2")
    colour, shape, motion, background = as_tensor(attributes).unbind(1)
    n = len(colour)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    # Lengths are in units of the frame. The order of the draws is part of the data: a seed means the same clip forever.
    radius, distance = uniform(0.19, 0.24), uniform(0.34, 0.42)
    centre_along, centre_across = 0.5 + uniform(-0.04, 0.04), 0.5 + uniform(-0.16, 0.16)
    time = torch.arange(frames).float()[None] / (span - 1) - 0.5
    sign = torch.where(motion % 2 == 0, -1.0, 1.0)
    along = centre_along[:, None] + (sign * distance)[:, None] * time
    across = centre_across[:, None].expand_as(along)
    horizontal = (motion < 2)[:, None]
    centre_x, centre_y = torch.where(horizontal, along, across), torch.where(horizontal, across, along)

    grid = (torch.arange(size).float() + 0.5) / size
    x = grid[None, None, None, :] - centre_x[:, :, None, None]
    y = grid[None, None, :, None] - centre_y[:, :, None, None]
    x, y = torch.broadcast_tensors(x, y)
    radius = radius.view(-1, 1, 1, 1)
    alpha = (0.5 - signed_distance(shape, x, y, radius) * size / 1.5).clamp(0, 1)  # anti-aliased over 1.5 pixels

    angle, amplitude = uniform(0, 2 * math.pi).view(-1, 1, 1), uniform(0, 0.04).view(-1, 1, 1)
    ramp = torch.cos(angle) * (grid[None, None] - 0.5) + torch.sin(angle) * (grid[None, :, None] - 0.5)
    level = torch.tensor(list(BACKGROUNDS.values()))[background].view(-1, 1, 1)
    backdrop = (level + 2 * amplitude * ramp)[:, None, None]
    tint = torch.tensor(list(COLOURS.values()))[colour] + (torch.rand(n, 3, generator=generator) - 0.5) * 0.06
    lit_from_above = (1 - 0.12 * (y / radius).clamp(-1, 1))[:, None]
    paint = tint.view(-1, 3, 1, 1, 1) * lit_from_above
    return (alpha[:, None] * paint + (1 - alpha[:, None]) * backdrop).clamp(0, 1)
