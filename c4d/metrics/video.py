"""The one video format of this package."""

from __future__ import annotations

from torch import Tensor

# Half-precision decoders round to values just outside [0, 1]; anything further off is another value range.
_TOLERANCE = 1e-2


def check_video(video: Tensor, name: str = "video") -> None:
    """Raises ValueError unless `video` is a floating-point tensor [n, 3, T, H, W] in [0, 1] with no empty dimension.

    NaN passes: a broken generation is to be scored as such, not to stop the scoring.
    """
    if video.dim() != 5 or video.shape[1] != 3 or 0 in video.shape:
        raise ValueError(f"{name} has shape {tuple(video.shape)}; allowed is [n, 3, T, H, W], no dimension empty")
    if not video.is_floating_point():
        raise ValueError(f"{name} has dtype {video.dtype}; allowed are floating-point types with values in [0, 1]")
    low, high = video.min().item(), video.max().item()
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(f"{name} has values from {low:.3g} to {high:.3g}; allowed is [0, 1]")
