"""Norm and rotary embedding on Ascend NPUs: torch_npu's fused operators, each called with fp32 for one rounding.

Sources of the limits: the operators' documentation in torch_npu 2.13 (``torch_npu/_op_plugin_docs.py``). None was run
on hardware.
"""

from __future__ import annotations

import torch
from torch import Tensor

INTERLEAVED, HALVES = "interleave", "half"  # how npu_rotary_mul calls pairs (0, 1), (2, 3), … and (0, D/2), …
SIZE, ROWS = 896, 1000  # head sizes, and batch times heads, are less


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """For x [B, S, H, D] and a weight [D], [H · D] or None, of the dtype of x; in fp32, rounded once."""
    weight = x.new_ones(x.shape[-1]) if weight is None else weight  # the operator wants one
    together = weight.numel() != x.shape[-1]
    out = torch.ops.npu.npu_rms_norm(x.flatten(2) if together else x, weight, epsilon=eps)[0]
    return out.view_as(x) if together else out


def takes_rotary(x: Tensor, cos: Tensor, turned: int) -> bool:
    """Whether the operator takes x [B, S, H, D] and these tables as :func:`rotary` gives them."""
    B, H, D = x.shape[0], x.shape[2], x.shape[3]
    return turned > 0 and D < SIZE and (H if per_sample(cos) else B * H) < ROWS


def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, turned: int) -> Tensor:
    """x [B, S, H, D], its ``turned`` leading tokens by tables [S, D/2] or [B, S, D/2]; in fp32, rounded once."""
    part = x[:, :turned].float()
    if per_sample(cos):  # the operator knows one table: the samples behind each other are one
        part = part.flatten(0, 1)[None]
    tables = (wide(table, interleaved) for table in (cos, sin))
    out = torch.ops.npu.npu_rotary_mul(part.contiguous(), *tables, INTERLEAVED if interleaved else HALVES)
    out = out.view(x.shape[0], turned, *x.shape[2:]).to(x.dtype)
    return out if turned == x.shape[1] else torch.cat((out, x[:, turned:]), 1)


def wide(table: Tensor, interleaved: bool) -> Tensor:
    """[1, S, 1, D] fp32 of a table with a number for each pair; both numbers of a pair turn by the same angle."""
    table = table.float().flatten(0, -2)
    table = table.repeat_interleave(2, -1) if interleaved else table.repeat(1, 2)
    return table[None, :, None]


def per_sample(table: Tensor) -> bool:
    return table.ndim == 3 and table.shape[0] > 1
