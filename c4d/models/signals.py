"""How a signal is read: from what a module returned, or of the first block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def whole(output: Any) -> Tensor:
    """A module's only output, [B, D] or [B, tokens, D]."""
    found: Tensor = output
    return found


def copied(output: Any) -> Tensor:
    """The same as it is now: the forward goes on to change it in place."""
    found: Tensor = output.clone()
    return found


def first(output: Any) -> Tensor:
    """The first of several."""
    found: Tensor = output[0]
    return found


def modulated_by_temb(block: nn.Module, named: Mapping[str, Any]) -> Tensor:
    """[B, tokens, D]: the first block's input after its adaptive norm, which takes it and ``temb``."""
    found: Tensor = block.norm1(named["hidden_states"], named["temb"])[0]  # type: ignore[operator]
    return found
