"""Features as whole numbers of eight bits, with a scale for each token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 127  # of the numbers on both sides of zero


class EightBits(NamedTuple):
    """``values`` int8 [..., D] times ``scales`` fp32 (fp64 of fp64 features) [..., 1]."""

    values: Tensor
    scales: Tensor


def quantized(x: Tensor) -> EightBits:
    """``x`` [..., D] to the nearest multiples of a scale for each row of D numbers, max|row| / 127.

    What comes back (:func:`widened`) is at most scale / 2 away, but for the rounding of the multiplication. A row with
    a number that is not finite comes back without a finite one.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scales = wide.abs().amax(-1, keepdim=True) / LARGEST
    values = (wide / scales).round_().nan_to_num_(0.0, 0.0, 0.0)  # a row of zeros has no scale
    return EightBits(values.to(torch.int8), scales)


def widened(held: EightBits) -> Tensor:
    """The features, in the dtype of the scales: rounding them to that which they came in would add to the error."""
    return held.values * held.scales
