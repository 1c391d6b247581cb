"""Contact sheets: frames of many clips in one picture, to look at what the numbers say."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from c4d.metrics.video import check_video

PAD, GROUP_GAP, TITLE_HEIGHT = 3, 9, 18
_PAPER, _INK = (90, 40, 90), (255, 255, 255)  # a colour that no clip has, so that edges of dark and light frames show


def contact_sheet(
    videos: Tensor | Sequence[Tensor],
    labels: Sequence[str] = (),
    *,
    titles: Sequence[str] = (),
    frames: int = 5,
    frame_height: int = 96,
) -> Image.Image:
    """One row a clip: its label at the left, then `frames` of its frames, evenly spaced from first to last.

    videos: [n, 3, T, H, W] in [0, 1], or several of one shape, which stand side by side (uncached, cached, ...);
    labels: none, or one text a clip; titles: none, or one text for each of the videos, written above it;
    frame_height: of a frame on the sheet, in pixels; the width keeps the proportions.
    Raises ValueError for unequal shapes, wrong counts of labels or titles, and for what `check_video` refuses.
    """
    groups = [videos] if isinstance(videos, Tensor) else list(videos)
    _check(groups, labels, titles, frames, frame_height)
    n, _, length, height, width = groups[0].shape
    shown = spaced(length, frames)
    cell_height, cell_width = frame_height + PAD, max(1, round(frame_height * width / height)) + PAD
    font = ImageFont.load_default()
    left = ceil(max((font.getlength(label) for label in labels), default=-2 * PAD)) + 2 * PAD
    top = TITLE_HEIGHT if titles else 0
    group_width = len(shown) * cell_width + GROUP_GAP
    sheet = Image.new("RGB", (left + len(groups) * group_width - GROUP_GAP, top + n * cell_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, group in enumerate(groups):
        x0 = left + column * group_width
        if titles:
            draw.text((x0, PAD), titles[column], fill=_INK, font=font)
        for row, clip in enumerate(group):
            for position, index in enumerate(shown):
                frame = _frame(clip[:, index], cell_width - PAD, cell_height - PAD)
                sheet.paste(frame, (x0 + position * cell_width, top + row * cell_height))
    for row, label in enumerate(labels):
        draw.text((PAD, top + row * cell_height + cell_height // 2 - 6), label, fill=_INK, font=font)
    return sheet


def spaced(length: int, count: int) -> list[int]:
    """At most ``count`` indices into ``length``, evenly spaced, the first and the last among them."""
    return sorted({round(i * (length - 1) / max(1, count - 1)) for i in range(count)})


def _frame(pixels: Tensor, width: int, height: int) -> Image.Image:
    """pixels [3, H, W] in [0, 1] -> a picture of the given size; NaN is drawn black."""
    values = (pixels.detach().cpu().float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    enlarged = height >= image.height
    return image.resize((width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def _check(groups: list[Tensor], labels: Sequence[str], titles: Sequence[str], frames: int, frame_height: int) -> None:
    if not groups:
        raise ValueError("no videos; allowed are one or more")
    for group in groups:
        check_video(group)
        if group.shape != groups[0].shape:
            shapes = ", ".join(str(tuple(g.shape)) for g in groups)
            raise ValueError(f"videos have shapes {shapes}; allowed are equal shapes")
    if labels and len(labels) != len(groups[0]):
        raise ValueError(f"{len(labels)} labels for {len(groups[0])} clips; allowed are none or one a clip")
    if titles and len(titles) != len(groups):
        raise ValueError(f"{len(titles)} titles for {len(groups)} videos side by side; allowed are none or one each")
    if frames < 1 or frame_height < 1:
        raise ValueError(f"frames={frames}, frame_height={frame_height}; allowed are 1 and more")
