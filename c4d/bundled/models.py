"""The models that come with the package, and the sizes they were trained for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from c4d.bundled import clips, compositions
from c4d.bundled.composition_judge import reading as reading_of_composition
from c4d.bundled.glyph_judge import reading as reading_of_letter
from c4d.bundled.glyphs import LETTERS
from c4d.bundled.judge import reading

SEVERAL = 16  # prompts of a bundled model
INDEX = "model_index.json"  # of a directory of diffusers


@dataclass(frozen=True)
class Defaults:
    """What a generation uses unless it is asked for something else: pixels, frames, steps, scale, frames a second.

    The sizes and ``max_sequence_length`` (tokens of text) are None where the pipeline has no such argument, or its own
    will do. ``threads`` of the CPU: the work of a tiny model is too short to be worth sharing, and on a busy
    machine threads that wait for each other have been seen to hold one clip up for half a minute.
    """

    height: int | None
    width: int | None
    num_frames: int | None
    steps: int
    guidance_scale: float
    fps: int
    threads: int
    max_sequence_length: int | None = None

    def said(self) -> str:
        """In words, what there is of it."""
        parts = [
            f"{self.width}x{self.height} pixels" if self.width and self.height else "",
            f"{self.num_frames} frames at {self.fps} a second" if self.num_frames else "",
            f"{self.steps} steps, guidance scale {self.guidance_scale:g}",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Bundled:
    """A diffusers pipeline in ``c4d/bundled/<folder>``; ``example`` is a prompt that it understands, ``prompts``
    are more of them, to learn a profile from.

    ``judge`` tells what a clip [T, 3, H, W] of a prompt shows, None where it cannot."""

    folder: str
    about: str
    example: str
    defaults: Defaults
    judge: Callable[[str, Tensor], dict[str, Any] | None]
    prompts: tuple[str, ...]


def _spaced(pool: Sequence[Any], caption: Callable[[Any], str]) -> tuple[str, ...]:
    """Of what a model was trained on, as many prompts, evenly spaced."""
    return tuple(caption(pool[i * len(pool) // SEVERAL]) for i in range(SEVERAL))


BUNDLED: Mapping[str, Bundled] = MappingProxyType(
    {
        "wan-tiny": Bundled(
            folder="wan_tiny",
            about="a Wan text-to-video model small enough for any CPU; it draws one moving shape. Prompts: a COLOUR "
            "SHAPE moving DIRECTION on a BACKGROUND background, of red green blue yellow magenta cyan; circle square "
            "triangle; left right up down; black gray white",
            example="a red circle moving left on a black background",
            defaults=Defaults(height=32, width=32, num_frames=13, steps=50, guidance_scale=4.0, fps=8, threads=1),
            judge=reading,
            prompts=_spaced(clips.TRAIN, clips.caption),
        ),
        "flux-tiny": Bundled(
            folder="flux_tiny",
            about="a FLUX text-to-image model small enough for any CPU, guidance distilled as in FLUX.1-dev; it draws "
            "one to four coloured shapes. Prompts: a COLOUR SHAPE, or two three four COLOUR SHAPEs, or two things with "
            "and, left of, right of, above, below, on a BACKGROUND background, of red green blue yellow magenta cyan; "
            "circle square triangle; black gray white",
            example="a red circle on a white background",
            defaults=Defaults(
                height=64,
                width=64,
                num_frames=None,
                steps=50,
                guidance_scale=3.5,
                fps=8,
                threads=1,
                max_sequence_length=24,
            ),
            judge=reading_of_composition,
            prompts=_spaced(compositions.TRAIN, compositions.caption),
        ),
        "glyph-dit": Bundled(
            folder="glyph_dit",
            about="a DiT class-to-image model small enough for any CPU; it draws one capital letter in one colour on "
            "paper of another, 32x32 pixels. It predicts the noise of a linear-beta schedule (DDIM) and is guided in "
            "one batch. Prompts: a letter, A to Z",
            example="A",
            defaults=Defaults(height=None, width=None, num_frames=None, steps=50, guidance_scale=3.0, fps=8, threads=1),
            judge=reading_of_letter,
            prompts=_spaced(LETTERS, str),
        ),
    }
)

# Students that make a clip block by block (c4d.rollout). They are none of BUNDLED: called as a pipeline is, at a whole
# clip and many steps, they would draw what they were never trained to.
ROLLING: Mapping[str, Bundled] = MappingProxyType(
    {
        "wan-tiny-causal": Bundled(
            folder="wan_tiny_causal",
            about="wan-tiny distilled to four steps and no guidance, one frame of latents after the other "
            "(docs/measurements/causal). Prompts as wan-tiny's",
            example="a red circle moving left on a black background",
            defaults=Defaults(
                height=32,
                width=32,
                num_frames=13,
                steps=4,
                guidance_scale=1.0,
                fps=8,
                threads=1,
                max_sequence_length=16,
            ),
            judge=reading,
            prompts=_spaced(clips.TRAIN, clips.caption),
        ),
    }
)

EVERY: Mapping[str, Bundled] = MappingProxyType({**BUNDLED, **ROLLING})


def bundled_model(name: str = "wan-tiny") -> str:
    """The directory of a model that comes with c4d, for ``from_pretrained`` of its pipeline.

    Raises ValueError for an unknown name, FileNotFoundError where the installation lacks it.
    """
    if name not in EVERY:
        raise ValueError(f"unknown bundled model {name!r}: known are {', '.join(EVERY)}")
    folder = Path(str(files("c4d.bundled") / EVERY[name].folder))
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"bundled model {name!r} is missing from this installation of c4d; install it again")
    return str(folder)
