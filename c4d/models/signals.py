"""How a signal is read from what a module returned."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def whole(output: Any) -> Tensor:
    """A module's only output, [B, D] or [B, tokens, D]."""
    found: Tensor = output
    return found


def first(output: Any) -> Tensor:
    """The first of several."""
    found: Tensor = output[0]
    return found
