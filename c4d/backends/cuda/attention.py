"""Attention on NVIDIA GPUs: torch's own kernels, called as operators so that no switch of the process is touched, and
the packages FlashAttention and SageAttention where they are installed.

Sources of the limits: the checks in torch's ``sdp_utils.cpp``, and the packages' own checks and documentation
(flash-attn 2.8, FlashAttention-3 for Hopper, sageattention 1.0.6 and 2.2). torch's own were run on an H100, the
packages on no hardware yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from c4d.backends.kernels import CAUSAL, Kernel, Limits
from c4d.backends.reference import KERNELS, Reference, math_attention
from c4d.backends.reference import sdpa as reference_sdpa

HALF = (torch.bfloat16, torch.float16)
ALIGNED = 8  # numbers: rows of a bias begin at multiples of 16 bytes
AMPERE, HOPPER = (8, 0), (9, 0)

aten = torch.ops.aten


def flash(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor]:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, total, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    return out.transpose(1, 2), total


def cudnn(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    if k.shape[1] == 1:  # which cuDNN does not take
        return math_attention(q, k, v, mask, scale, causal, lse)
    B, S, H, _ = q.shape
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, total, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, lse, 0.0, causal, False, scale=scale)
    return out.transpose(1, 2), total.view(B, H, S) if lse else None  # it comes as [B, H, S, 1]


def efficient(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    bias = None if mask is None else _bias(q, k, mask)
    S = q.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, total, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, bias, lse, 0.0, causal, scale=scale)
    out, total = out.transpose(1, 2), total[..., :S] if lse else None  # its rows are padded to a multiple of 32
    return _blind(out, total, mask)


def _blind(out: Tensor, total: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """0, with minus infinity, where a boolean mask lets a query see nothing: a softmax over nothing is no number."""
    if mask is None or mask.dtype != torch.bool:
        return out, total
    seen = mask.any(-1, keepdim=True)  # [B, H, Sq, 1], or 1 in their place
    total = None if total is None else total.masked_fill(~seen[..., 0], -torch.inf)
    return out.masked_fill(~seen.transpose(1, 2), 0.0), total


def flash_2(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    run = import_module("flash_attn").flash_attn_func
    if not lse:
        return run(q, k, v, softmax_scale=scale, causal=causal), None
    out, total, _ = run(q, k, v, softmax_scale=scale, causal=causal, return_attn_probs=True)
    return out, total


def flash_3(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    run = import_module("flash_attn_interface").flash_attn_func
    # Its first releases give the LSE always and know no such argument.
    asked = {"return_attn_probs": True} if lse and "return_attn_probs" in _parameters(run) else {}
    found = run(q, k, v, softmax_scale=scale, causal=causal, **asked)
    out, total = found[:2] if isinstance(found, tuple) else (found, None)
    return out, total if lse else None


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """torch's own attention. It may choose cuDNN's, which gives a query that sees nothing some mean of the values."""
    return _blind(*reference_sdpa(q, k, v, mask, scale, causal, lse), mask)


def sage(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor | None]:
    run = import_module("sageattention").sageattn
    if "return_lse" not in _parameters(run):
        k = k.clone()  # version 1, which subtracts the mean of the keys in place
    asked = {"return_lse": True} if lse else {}
    found = run(q, k, v, tensor_layout="NHD", is_causal=causal, sm_scale=scale, **asked)
    return found if lse else (found, None)


def kernels(capability: tuple[int, int] | None) -> Mapping[str, Kernel]:
    """The kernels for a GPU of this compute capability (None: there is no GPU), in the order "auto" tries them.

    The package FlashAttention-2 holds the kernels that torch brings as its own "flash", so "auto" never gets to it.
    """
    eights = range(8, 257, 8)
    cudnn_first = capability is not None and capability >= HOPPER
    own = {
        "cudnn": Kernel(
            "cuDNN, through torch", Limits(HALF, (CAUSAL,), range(8, 129, 8)), cudnn, missing=_needs(capability, AMPERE)
        ),
        "flash": Kernel(
            "FlashAttention-2 of torch", Limits(HALF, (CAUSAL,), eights), flash, missing=_needs(capability, AMPERE)
        ),
    }
    return {
        "flash-3": Kernel(
            "FlashAttention-3, package flash_attn_interface",
            Limits(HALF, (CAUSAL,), eights),
            flash_3,
            missing=_needs(capability, HOPPER, "flash_attn_interface", below=(10, 0)),
        ),
        **(own if cudnn_first else dict(reversed(own.items()))),
        "flash-2": Kernel(
            "FlashAttention-2, package flash_attn",
            Limits(HALF, (CAUSAL,), eights),
            flash_2,
            missing=_needs(capability, AMPERE, "flash_attn"),
        ),
        "efficient": Kernel(
            "memory-efficient attention of torch",
            Limits((*HALF, torch.float32), head_sizes=range(8, 1025, 8)),
            efficient,
            missing=_needs(capability, (5, 0)),
        ),
        "sage": Kernel(
            "SageAttention, package sageattention: queries and keys in int8",
            Limits(HALF, (CAUSAL,), (64, 96, 128), lse=_sage_gives_lse()),
            sage,
            lossy=True,
            missing=_needs(capability, AMPERE, "sageattention"),
        ),
        **Reference.attention_kernels,
        "sdpa": replace(KERNELS["sdpa"], run=sdpa),
    }


def _needs(
    capability: tuple[int, int] | None,
    least: tuple[int, int],
    package: str | None = None,
    below: tuple[int, int] | None = None,
) -> Callable[[], str | None]:
    """What a kernel lacks that needs this compute capability, and a package; found out once, here."""
    reason = None
    if capability is None:
        reason = "has no GPU here"
    elif capability < least or (below is not None and capability >= below):
        wanted = f"{_dotted(least)} or more" + (f" and less than {_dotted(below)}" if below else "")
        reason = f"needs compute capability {wanted}; this GPU has {_dotted(capability)}"
    elif package is not None:
        reason = _unusable(package)
    return lambda: reason


def _unusable(package: str) -> str | None:
    if find_spec(package) is None:
        return f"needs the package {package}, which is not installed"
    try:
        import_module(package)
    except Exception as error:  # one built for another torch fails as it likes
        return f"needs the package {package}, which cannot be imported: {type(error).__name__}: {error}"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _sage_gives_lse() -> bool:
    """Only if it says so: version 1 takes any keyword and ignores it."""
    return _unusable("sageattention") is None and "return_lse" in _parameters(import_module("sageattention").sageattn)


def _bias(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """``mask`` as an additive [B, H, Sq, Sk] of the dtype of q, its rows aligned as the kernel wants them."""
    rows = torch.zeros(*mask.shape[:3], -(-k.shape[1] // ALIGNED) * ALIGNED, dtype=q.dtype, device=q.device)
    bias = rows[..., : k.shape[1]]
    if mask.dtype == torch.bool:
        bias.masked_fill_(~mask, -torch.inf)
    else:
        bias.copy_(mask)
    return bias.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
