"""Rotary tables of frames that come later than the first: of models that go through a clip block by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

THETA = 10000.0  # no configuration says another


def later(rope: Any, args: tuple[Any, ...], tables: tuple[Tensor, Tensor], start: int) -> tuple[Tensor, ...]:
    """Cosines and sines [1, S, 1, D] of frames from ``start`` on, however late: the leading channels are of time."""
    frames, channels = args[0].shape[2] // rope.patch_size[0], rope.t_dim
    each = tables[0].shape[1] // frames
    at = torch.arange(start, start + frames, dtype=torch.float64)
    angles = torch.outer(at, THETA ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels))
    rows = (turned.repeat_interleave(2, 1).repeat_interleave(each, 0) for turned in (angles.cos(), angles.sin()))
    of_time = (row[None, :, None].to(device=tables[0].device, dtype=tables[0].dtype) for row in rows)
    return tuple(torch.cat((now, table[..., channels:]), -1) for now, table in zip(of_time, tables, strict=True))
