"""Files, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import torch
from PIL import Image
from torch import Tensor

from c4d.eval import contact_sheet

SHORTEST = 256  # pixels that the shorter side of a saved clip has at least, so that people can see it


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` (same suffix) that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def enlargement(frames: Tensor) -> int:
    """The whole factor by which frames [T, 3, H, W] are enlarged when saved."""
    return max(1, ceil(SHORTEST / min(frames.shape[-2:])))


def write_clip(folder: Path, name: str, frames: Tensor, fps: float) -> Path:
    """Saves [T, 3, H, W] in [0, 1] as ``name``.mp4 (H.264), or ``name``.png if it is one frame; returns the path."""
    factor = enlargement(frames)
    pixels = to_bytes(frames).repeat_interleave(factor, 1).repeat_interleave(factor, 2).numpy()
    path = folder / f"{name}.{'png' if len(frames) == 1 else 'mp4'}"
    with atomic(path) as temporary:
        if len(frames) == 1:
            Image.fromarray(pixels[0]).save(temporary)
        else:
            # Without macro_block_size=1 imageio would resize what is not a multiple of 16.
            imageio.imwrite(
                temporary,
                pixels,
                plugin="FFMPEG",
                fps=fps,
                codec="libx264",
                pixelformat="yuv420p",
                macro_block_size=1,
                output_params=["-crf", "14", "-movflags", "+faststart"],
            )
    return path


def write_sheet(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Saves a contact sheet: a labelled row for each clip [T, 3, H, W], all of one shape."""
    videos = torch.stack(list(rows.values())).transpose(1, 2)
    with atomic(path) as temporary:
        contact_sheet(videos, list(rows), frames=7, frame_height=128).save(temporary)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def to_bytes(frames: Tensor) -> Tensor:
    """[..., 3, H, W] in [0, 1] -> uint8 [..., H, W, 3]."""
    return (frames * 255).round().to(torch.uint8).movedim(-3, -1).contiguous()
