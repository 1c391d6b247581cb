"""Attention on Ascend NPUs: torch_npu's two fused operators, behind pure functions that say what each is called with.

Sources of the limits: the operators' documentation in torch_npu 2.13 (``torch_npu/_op_plugin_docs.py``). Their masks
say what is left out (True: no attention), in full and contiguous, and nothing is broadcast. None was run on hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from c4d.backends.ascend.chips import lacking
from c4d.backends.kernels import ADDITIVE, CAUSAL, FULL, KEYS, Kernel, Limits
from c4d.backends.reference import KERNELS

EVERYTHING = 2**31 - 1  # tokens before and behind a query that a mask is about; a narrower band would cut it off
COMPRESSED = 2048  # rows and columns of the triangle that stands for causal masks of any size
DENSE, UPPER_LEFT = 0, 2  # sparse_mode: a mask as it lies; that triangle
HEADS, WIDTH = 256, 65534


def infer_arguments(q: Tensor, scale: float | None, lse: bool) -> dict[str, Any]:
    """Of ``npu_fused_infer_attention_score`` beside q [B, Sq, N, D], k and v."""
    return {
        "num_heads": q.shape[2],
        "input_layout": "BSND",
        "scale": scaled(q, scale),
        "softmax_lse_flag": lse,
    }


def fusion_arguments(q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> dict[str, Any]:
    """Of ``npu_fusion_attention`` beside q [B, Sq, N, D], k [B, Sk, N, D] and v; in a boolean ``mask`` True attends."""
    return {
        "head_num": q.shape[2],
        "input_layout": "BSND",
        "scale": scaled(q, scale),
        "atten_mask": triangle(q.device) if causal else None if mask is None else left_out(q, k, mask),
        "sparse_mode": UPPER_LEFT if causal else DENSE,
        "pre_tockens": EVERYTHING,
        "next_tockens": EVERYTHING,
    }


def scaled(q: Tensor, scale: float | None) -> float:
    """Always given: the operators' own default is 1."""
    return q.shape[-1] ** -0.5 if scale is None else scale


def left_out(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """``mask`` turned round and written out: [B, N, Sq, Sk], or 1 for B and N together, or 1 for N."""
    batch, heads = mask.shape[:2]
    whole = q.shape[0] if heads > 1 else batch  # the operator knows [B, N], [B, 1] and [1, 1]
    return (~mask).expand(whole, heads, q.shape[1], k.shape[1]).contiguous()


def triangle(device: torch.device) -> Tensor:
    return torch.ones(COMPRESSED, COMPRESSED, device=device).triu(1).bool()


def log_sum_exp(largest: Tensor, sums: Tensor) -> Tensor:
    """[B, N, S] of each query's largest logit and sum of exponentials, [B, N, S, 8] each number eight times."""
    return largest[..., 0] + sums[..., 0].log()


def infer(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    if q.shape[1] == 1 or (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))):
        # A single query goes to another operator with rules of its own; and there is no backward.
        return fusion(q, k, v, mask, scale, causal, lse)
    q, k, v = (x.contiguous() for x in (q, k, v))
    out, total = torch.ops.npu.npu_fused_infer_attention_score(q, k, v, **infer_arguments(q, scale, lse))
    return out, total[..., 0] if lse else None  # it comes as [B, N, S, 1]


def fusion(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    q, k, v = (x.contiguous() for x in (q, k, v))
    out, largest, sums, *_ = torch.ops.npu.npu_fusion_attention(q, k, v, **fusion_arguments(q, k, mask, scale, causal))
    total = log_sum_exp(largest, sums) if lse else None
    if mask is None:
        return out, total
    # [B, N, Sq, 1], or 1 in their place. What comes out where nothing is seen is not documented.
    blind = ~mask.any(-1, keepdim=True)
    out = out.masked_fill(blind.transpose(1, 2), 0.0)
    return out, None if total is None else total.masked_fill(blind[..., 0], -torch.inf)


def kernels(chip: str | None, dtypes: tuple[torch.dtype, ...]) -> Mapping[str, Kernel]:
    """The kernels for a chip of this name (None: there is none) that computes in ``dtypes``, in the order of "auto"."""
    half = tuple(dtype for dtype in dtypes if dtype != torch.float32)
    reason = lacking(chip)
    return {
        "infer": Kernel(
            "npu_fused_infer_attention_score; npu_fusion_attention for a single query or a gradient",
            Limits(half, (), range(16, 513, 16), heads=HEADS, width=WIDTH),
            infer,
            missing=lambda: reason,
        ),
        "fusion": Kernel(
            "npu_fusion_attention",
            Limits(dtypes, (KEYS, FULL, CAUSAL), range(1, 769), heads=HEADS),
            fusion,
            missing=lambda: reason,
        ),
        # torch_npu's, which hands on to the operators above unless a mask is additive: alone for that.
        "sdpa": Kernel(KERNELS["sdpa"].about, Limits(dtypes, (ADDITIVE,), lse=False, heads=HEADS), KERNELS["sdpa"].run),
        "math": Kernel(KERNELS["math"].about, Limits(dtypes), KERNELS["math"].run),
    }
