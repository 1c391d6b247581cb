"""The models that come with the package, and the sizes they were trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Defaults:
    """What a generation uses unless it is asked for something else: pixels, frames, steps, scale, frames a second.

    ``threads`` of the CPU: the work of a tiny model is too short to be worth sharing, and on a busy machine threads
    that wait for each other have been seen to hold one clip up for half a minute.
    """

    height: int
    width: int
    num_frames: int
    steps: int
    guidance_scale: float
    fps: int
    threads: int


@dataclass(frozen=True)
class Embedded:
    """A diffusers pipeline in ``c4d/assets/<folder>``; ``example`` is a prompt that it understands."""

    folder: str
    about: str
    example: str
    defaults: Defaults


EMBEDDED: Mapping[str, Embedded] = MappingProxyType(
    {
        "wan-tiny": Embedded(
            folder="wan_tiny",
            about="a Wan text-to-video model small enough for any CPU; it draws one moving shape. Prompts: a COLOUR "
            "SHAPE moving DIRECTION on a BACKGROUND background, of red green blue yellow magenta cyan; circle square "
            "triangle; left right up down; black gray white",
            example="a red circle moving left on a black background",
            defaults=Defaults(height=32, width=32, num_frames=13, steps=50, guidance_scale=4.0, fps=8, threads=1),
        ),
    }
)
