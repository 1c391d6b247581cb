"""An analytic judge: reads colour, shape, motion and background from the pixels of a clip. No network is involved.

The background is read from the border of the frames alone: a clip without any object still has one, and so has noise
with a gray median. Colour, shape and motion are -1 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from c4d.bundled.clips import BACKGROUNDS, COLOURS, SHAPE_AREAS, as_tensor, caption, parse_caption, signed_distance
from c4d.metrics.video import check_video


@dataclass(frozen=True)
class Judgement:
    """predicted: int64 [n, 4], indices of colour, shape, motion, background, or -1 where nothing clear is seen.
    shape_iou: float32 [n], overlap with the best-fitting ideal shape, 0 to 1 (also given where the shape is -1)."""

    predicted: Tensor
    shape_iou: Tensor


@dataclass(frozen=True)
class Adherence:
    """Fractions of the clips in which an attribute is as asked; shape_iou is the mean over clips."""

    colour: float
    shape: float
    motion: float
    background: float
    all_four: float
    shape_iou: float
    clips: int


def judge(video: Tensor) -> Judgement:
    """Reads the attributes of square clips; video [n, 3, T, S, S] in [0, 1], any floating dtype and device.

    At least 2 frames are needed to see a motion, 6 for its first and last three not to overlap. NaN is judged -1.
    Raises ValueError for another shape, dtype or value range. The result is on the CPU.
    """
    check_video(video)
    size = video.shape[-1]
    if video.shape[-2] != size or size < 8:
        raise ValueError(f"video has frames of {video.shape[-2]}x{size} pixels; allowed are squares of at least 8x8")
    video = video.detach().cpu().float().clamp(0, 1)
    border = _border_median(video)  # [n, 3, T]
    contrast = (video - border[..., None, None]).abs().amax(1)  # [n, T, S, S]
    peak = contrast.flatten(2).amax(2)
    core = (contrast > 0.7 * peak[..., None, None]).float()
    colour_seen = (video * core[:, None]).flatten(2).sum(2) / core.flatten(1).sum(1).clamp_min(1)[:, None]  # [n, 3]
    alpha = _coverage(video, border, colour_seen)  # [n, T, S, S]
    area = alpha.flatten(2).sum(2)  # [n, T], in pixels
    pixel = torch.arange(size).float() + 0.5
    centre_x = (alpha.sum(2) * pixel).sum(2) / area.clamp_min(1)
    centre_y = (alpha.sum(3) * pixel).sum(2) / area.clamp_min(1)

    shape_iou, shape = _shape_overlaps(alpha, area, centre_x, centre_y).max(1)
    seen = (peak.amin(1) > 0.2) & (area.amin(1) > 0.04 * size * size) & (area.amax(1) < 0.45 * size * size)
    colour = torch.cdist(colour_seen, torch.tensor(list(COLOURS.values()))).argmin(1)
    motion = _motion(centre_x / size, centre_y / size)
    predicted = [
        torch.where(seen, colour, -1),
        torch.where(seen & (shape_iou > 0.72), shape, -1),
        torch.where(seen, motion, -1),
        _background(border.mean(2)),
    ]
    return Judgement(torch.stack(predicted, 1), shape_iou)


def adherence(video: Tensor, attributes: Tensor | Sequence[Sequence[int]]) -> Adherence:
    """Compares what `judge` sees in video [n, 3, T, S, S] with the attributes asked for (n rows, see `as_tensor`).

    Raises ValueError where `judge` or `as_tensor` does, and when the two counts differ.
    """
    asked = as_tensor(attributes)
    if len(asked) != len(video):
        raise ValueError(f"{len(video)} clips but {len(asked)} rows of attributes; allowed are equal counts")
    judgement = judge(video)
    hit = (judgement.predicted == asked).float()
    colour, shape, motion, background = hit.mean(0).tolist()
    all_four, shape_iou = hit.prod(1).mean().item(), judgement.shape_iou.mean().item()
    return Adherence(colour, shape, motion, background, all_four, shape_iou, len(asked))


def reading(prompt: str, frames: Tensor) -> dict[str, Any] | None:
    """What the judge sees in a clip [T, 3, H, W]; None unless the prompt is in the language of the drawn clips."""
    wanted = parse_caption(prompt)
    if wanted is None or len(frames) < 6 or frames.shape[-1] != frames.shape[-2]:
        return None
    read = judge(frames.transpose(0, 1)[None]).predicted[0]
    seen = caption(read) if bool((read >= 0).all()) else None
    return {"seen": seen, "as_asked": seen == caption(wanted)}


def _border_median(video: Tensor) -> Tensor:
    """Median colour of the outer two pixels of each frame -> [n, 3, T]."""
    sides = [video[..., :2, :], video[..., -2:, :], video[..., :2], video[..., -2:]]
    return torch.cat([side.flatten(3) for side in sides], 3).median(3).values


def _coverage(video: Tensor, border: Tensor, colour: Tensor) -> Tensor:
    """How much of each pixel is covered by the object: 0 where it has the border's colour, 1 where it has `colour`."""
    direction = colour[:, :, None] - border  # [n, 3, T]
    length = (direction * direction).sum(1).clamp_min(1e-3)
    alpha = ((video - border[..., None, None]) * direction[..., None, None]).sum(1) / length[..., None, None]
    return torch.where(alpha > 0.15, alpha, torch.zeros(())).clamp(0, 1)


def _shape_overlaps(alpha: Tensor, area: Tensor, centre_x: Tensor, centre_y: Tensor) -> Tensor:
    """Soft IoU, averaged over frames, with each ideal shape of the same area and centroid -> [n, shapes]."""
    pixel = torch.arange(alpha.shape[-1]).float() + 0.5
    x = pixel[None, None, None, :] - centre_x[..., None, None]
    y = pixel[None, None, :, None] - centre_y[..., None, None]
    x, y = torch.broadcast_tensors(x, y)
    overlaps = []
    for index, unit_area in enumerate(SHAPE_AREAS):
        radius = torch.sqrt(area / unit_area)[..., None, None]
        ideal = (0.5 - signed_distance(torch.full((len(alpha),), index), x, y, radius) / 1.5).clamp(0, 1)
        shared, joined = torch.minimum(alpha, ideal).flatten(2).sum(2), torch.maximum(alpha, ideal).flatten(2).sum(2)
        overlaps.append((shared / joined.clamp_min(1)).mean(1))
    return torch.stack(overlaps, 1)


def _motion(x: Tensor, y: Tensor) -> Tensor:
    """Direction from the mean centroid of the first three frames to that of the last three; x, y [n, T] in frames.

    -1 when the path is shorter than 0.12 of the frame or more diagonal than one to two.
    """
    dx, dy = x[:, -3:].mean(1) - x[:, :3].mean(1), y[:, -3:].mean(1) - y[:, :3].mean(1)
    towards = torch.stack([-dx, dx, -dy, dy], 1)
    longest = towards.amax(1)
    clear = (longest > 0.12) & (torch.minimum(dx.abs(), dy.abs()) < 0.5 * longest)
    return torch.where(clear, towards.argmax(1), -1)


def _background(border: Tensor) -> Tensor:
    """Nearest gray level to a border colour [n, 3]; -1 when it is tinted or far from every level."""
    levels = torch.tensor(list(BACKGROUNDS.values()))
    mean = border.mean(1)
    nearest = (mean[:, None] - levels).abs().argmin(1)
    clear = (border.amax(1) - border.amin(1) < 0.15) & ((mean - levels[nearest]).abs() < 0.15)
    return torch.where(clear, nearest, -1)
