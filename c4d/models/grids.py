"""Where tokens lie, for models whose latents are pictures or clips [B, C, *sides] that a patch embedding cuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def patches(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Rows and columns, or frames, rows and columns, by the configuration's ``patch_size`` (and ``patch_size_t``)."""
    sides, config = named["hidden_states"].shape[2:], transformer.config
    size: Any = config.patch_size  # type: ignore[union-attr]
    if not isinstance(size, int):
        return (tuple(n // p for n, p in zip(sides, size, strict=True)),)
    time: Any = getattr(config, "patch_size_t", None) or 1
    parts = [size] * len(sides) if len(sides) == 2 else [time, size, size]
    return (tuple(n // p for n, p in zip(sides, parts, strict=True)),)
