"""What tells how close a clip is to its reference, as a table: the package's own, and those of optional packages.

Each is one entry of :data:`METRICS`. What is not installed is known by name and never stands in for a figure. Metrics
that first download the weights of a network (LPIPS, CLIP score) are not among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor

from c4d.metrics.fidelity import SSIM_WINDOW, psnr, ssim

IDENTICAL = 120.0  # dB that stand for no difference at all


@dataclass(frozen=True)
class Metric:
    """``score(clip, reference, prompt)`` of clips [T, 3, H, W] in [0, 1]; None where it cannot be told.

    ``better`` is "higher" or "lower"; ``package`` is what an optional one is imported from, and ``install`` what pip
    calls it.
    """

    name: str
    unit: str
    better: str
    about: str
    score: Callable[[Tensor, Tensor, str], float | None]
    package: str | None = None
    install: str | None = None

    @property
    def installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None


def decibels(clip: Tensor, reference: Tensor, prompt: str = "") -> float:
    """PSNR; :data:`IDENTICAL` where the formula gives infinity."""
    found = psnr(_one(clip), _one(reference)).item()
    return IDENTICAL if math.isinf(found) else found


def _structure(clip: Tensor, reference: Tensor, prompt: str) -> float | None:
    return ssim(_one(clip), _one(reference)).item() if min(clip.shape[-2:]) >= SSIM_WINDOW else None


def _flip(clip: Tensor, reference: Tensor, prompt: str) -> float:
    """The mean over frames, of screens as its package assumes them (67 pixels a degree)."""
    from flip_evaluator import evaluate

    pairs = zip(*(video.movedim(1, -1).contiguous().numpy() for video in (reference, clip)), strict=True)
    found = [evaluate(one, other, "LDR", applyMagma=False)[1] for one, other in pairs]
    return float(sum(found) / len(found))


def _one(clip: Tensor) -> Tensor:
    return clip.transpose(0, 1)[None]


METRICS = (
    Metric("PSNR", "dB", "higher", "the mean squared error of all pixels, on a logarithmic scale", decibels),
    Metric("SSIM", "", "higher", "the likeness of local structure, 1 is equal", _structure),
    Metric(
        "FLIP",
        "",
        "lower",
        "what an eye sees that flips between the two, 0 is nothing",
        _flip,
        package="flip_evaluator",
        install="flip-evaluator",
    ),
)
