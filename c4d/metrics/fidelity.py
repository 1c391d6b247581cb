"""How close a video is to its reference, per clip: PSNR and SSIM.

Both compare pixels. They say whether a cache changed the picture, not whether the picture is good.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.metrics.video import check_video

SSIM_WINDOW = 7
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all pixels of a clip, for a peak of 1.

    video, reference: [n, 3, T, H, W] in [0, 1], any floating dtype. Returns float32 [n] on the device of `video`.
    Identical clips give inf, which is the limit of the formula; average clips with that in mind (a median, or the
    count of identical clips beside the mean of the others). A clip with NaN gives nan.
    Raises ValueError for unequal shapes and for what `check_video` refuses.
    """
    _check_pair(video, reference)
    errors = [(a.float() - b.float()).square().mean() for a, b in zip(video, reference, strict=True)]
    return -10 * torch.log10(torch.stack(errors))


def ssim(video: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, averaged over channels, frames and window positions of a clip.

    A uniform window of 7x7 pixels inside each frame, only whole windows, population variances (divided by 49),
    C1 = 0.01^2 and C2 = 0.03^2. Libraries that weight the window or divide by 48 give slightly other values.
    video, reference: [n, 3, T, H, W] in [0, 1], H and W at least 7, any floating dtype.
    Returns float32 [n] on the device of `video`, at most 1; identical clips give exactly 1, a clip with NaN gives nan.
    Raises ValueError for unequal shapes, frames below 7x7 and for what `check_video` refuses.
    """
    _check_pair(video, reference)
    if min(video.shape[-2:]) < SSIM_WINDOW:
        height, width = video.shape[-2:]
        raise ValueError(f"frames have {height}x{width} pixels; allowed are at least {SSIM_WINDOW}x{SSIM_WINDOW}")
    values = [_clip_ssim(a, b) for a, b in zip(video, reference, strict=True)]
    return torch.tensor(values, dtype=torch.float32, device=video.device)


def _clip_ssim(a: Tensor, b: Tensor) -> float:
    """a, b [3, T, H, W]. Frame by frame, because the intermediates are several times the size of their input."""
    return sum(_frame_ssim(a[:, t], b[:, t]) for t in range(a.shape[1])) / a.shape[1]


def _frame_ssim(a: Tensor, b: Tensor) -> float:
    """a, b [3, H, W]. In double precision: the variance of a flat area is a small difference of large squares, and
    single precision is off by as much as 1e-4 there. On the CPU, because not every accelerator has doubles."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x, (SSIM_WINDOW, 1), stride=1), (1, SSIM_WINDOW), stride=1)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    total = (mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2)
    return (similar / total).mean().item()


def _check_pair(video: Tensor, reference: Tensor) -> None:
    check_video(video)
    check_video(reference, "reference")
    if video.shape != reference.shape:
        shapes = f"{tuple(video.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"video and reference have shapes {shapes}; allowed are equal shapes")
