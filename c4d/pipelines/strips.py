"""Clips as film strips: a picture of some of their frames side by side, which a page draws one after the other."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from c4d.metrics.sheet import spaced
from c4d.pipelines.output import atomic, to_bytes

FRAMES, SIDE = 24, 512  # of a strip that is kept: frames at most, and pixels of the longer side of each


class Rung(NamedTuple):
    """How strips are made smaller for a page: pixels of a frame's longer side, frames, and quality (None: lossless)."""

    side: int
    frames: int
    quality: int | None


# The first at which everything fits is taken, the same for all, so that pictures of one page can be compared.
LADDER = (
    Rung(SIDE, FRAMES, None),
    Rung(SIDE, FRAMES, 92),
    Rung(SIDE, FRAMES, 80),
    Rung(384, FRAMES, 80),
    Rung(288, 16, 75),
    Rung(224, 12, 70),
    Rung(160, 8, 65),
    Rung(112, 6, 60),
)


def write_strip(path: Path, frames: Tensor) -> None:
    """Saves some frames of [T, 3, H, W] in [0, 1], evenly spaced, as one lossless WebP. Raises OutputError."""
    pixels = to_bytes(frames[spaced(len(frames), FRAMES)]).numpy()
    with atomic(path) as temporary:
        _row([_shrunk(Image.fromarray(frame), SIDE) for frame in pixels]).save(temporary, "WEBP", lossless=True)


def embedded(strips: Mapping[str, tuple[Path, int]], budget: int) -> tuple[dict[str, str], Rung | None]:
    """Data URIs of strips (name -> file and number of frames in it) of ``budget`` bytes in all, and how they are made.

    What does not fit even as small as can be is left out, from the last on; then the rung is the last one.
    """
    for rung in LADDER:
        found, left = dict[str, str](), budget
        for name, (path, frames) in strips.items():
            uri = _uri(path, frames, rung)
            left -= len(uri)
            if left < 0 and rung is not LADDER[-1]:
                break
            if left < 0:
                return found, rung
            found[name] = uri
        else:
            return found, rung
    return {}, None


def kept_frames(length: int) -> int:
    """How many frames of a clip its strip has."""
    return len(spaced(length, FRAMES))


def _uri(path: Path, frames: int, rung: Rung) -> str:
    data = path.read_bytes()
    if rung.quality is not None:
        with Image.open(path) as strip:
            whole = strip.convert("RGB")
        width = whole.width // frames
        parts = [whole.crop((i * width, 0, (i + 1) * width, whole.height)) for i in spaced(frames, rung.frames)]
        buffer = io.BytesIO()
        _row([_shrunk(part, rung.side) for part in parts]).save(buffer, "WEBP", quality=rung.quality)
        data = buffer.getvalue()
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    image.thumbnail((side, side))
    return image


def _row(images: list[Image.Image]) -> Image.Image:
    width, height = images[0].size
    whole = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        whole.paste(image, (i * width, 0))
    return whole
