"""Triton kernel of the rotary embedding, with the RMS norm before it: what a block does to its queries and keys.

One program takes all heads of a token (as many as fit where heads are independent), so that memory is read and
written once, in whole rows, and the angles of a token are loaded once for all of its heads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from c4d.backends.cuda.strides import power_of_two
from c4d.backends.kernels import UnsupportedError

NONE, HEAD, TOKEN = 0, 1, 2  # what is normed: nothing, each head, all heads of a token together

# Not tuned on hardware.
TILE = 4096  # numbers that one program takes where heads are independent
PER_THREAD = 16  # numbers that one thread holds, which decides the warps of a program
WARPS_MAX = 16
MOST = 1 << 15  # numbers of a token (heads and head size each rounded up to a power of two) that fit one program


@triton.jit(do_not_specialize=["S", "tokens"])
def norm_rotary_kernel(
    out,  # [B, S, H, D] contiguous
    x,
    weight,
    cos,
    sin,
    eps,
    S,
    tokens,
    x_strides,  # batch, token, head; the last dimension is contiguous
    cos_strides,  # batch, token, pair
    sin_strides,
    H: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,  # of a program
    HALF: tl.constexpr,  # D / 2, rounded up to a power of two
    NORMED: tl.constexpr,
    TOGETHER: tl.constexpr,  # over all heads of a token
    WEIGHTED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // S, row % S
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    x += batch * x_strides[0] + token * x_strides[1]
    out += row * (H * D)

    # a and b are the halves of the pairs. Interleaved ones are loaded side by side and parted in registers: two loads
    # of every other number would each touch all of the memory.
    if INTERLEAVED:
        both = tl.arange(0, 2 * HALF)[None, :]
        keep = (head < H) & (both < D)
        ab = tl.load(x + head.to(tl.int64) * x_strides[2] + both, mask=keep, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(ab, [HEADS, HALF, 2]))
    else:
        keep = (head < H) & (pair < D // 2)
        at = x + head.to(tl.int64) * x_strides[2] + pair
        a = tl.load(at, mask=keep, other=0.0).to(tl.float32)
        b = tl.load(at + D // 2, mask=keep, other=0.0).to(tl.float32)

    if NORMED:
        squares = tl.sum(a * a + b * b, axis=1, keep_dims=True)
        size = D
        if TOGETHER:
            squares = tl.sum(squares, axis=0, keep_dims=True)
            size = H * D
        scale = tl.rsqrt(squares / size + eps)
        a *= scale
        b *= scale
        if WEIGHTED:
            line = head if TOGETHER else tl.zeros([1, 1], tl.int32)  # [H, D] as x has them, or one [D] for every head
            w = weight + line * D
            if INTERLEAVED:
                wab = tl.load(w + both, mask=(line < H) & (both < D), other=0.0).to(tl.float32)
                wa, wb = tl.split(tl.reshape(wab, [wab.shape[0], HALF, 2]))
            else:
                wa = tl.load(w + pair, mask=(line < H) & (pair < D // 2), other=0.0).to(tl.float32)
                wb = tl.load(w + pair + D // 2, mask=(line < H) & (pair < D // 2), other=0.0).to(tl.float32)
            a *= wa
            b *= wb

    turned = token < tokens
    angle = (pair < D // 2) & turned
    c = tl.load(cos + batch * cos_strides[0] + token * cos_strides[1] + pair * cos_strides[2], mask=angle, other=1.0)
    s = tl.load(sin + batch * sin_strides[0] + token * sin_strides[1] + pair * sin_strides[2], mask=angle, other=0.0)
    c, s = c.to(tl.float32), s.to(tl.float32)
    a, b = tl.where(turned, a * c - b * s, a), tl.where(turned, a * s + b * c, b)  # inf · 0 would be nan beyond

    if INTERLEAVED:
        ab = tl.reshape(tl.join(a, b), [HEADS, 2 * HALF])
        tl.store(out + head * D + both, ab.to(out.dtype.element_ty), mask=keep)
    else:
        tl.store(out + head * D + pair, a.to(out.dtype.element_ty), mask=keep)
        tl.store(out + head * D + pair + D // 2, b.to(out.dtype.element_ty), mask=keep)


# Opaque to torch.compile: a block that is compiled as one graph keeps it as one node.
@torch.library.custom_op("c4d::norm_rotary", mutates_args=())
def norm_rotary(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    norm: int,
    interleaved: bool,
    tokens: int,
) -> Tensor:
    """Norm of x [B, S, H, D] and rotation of its first ``tokens`` tokens by cos, sin [tokens, D/2] or [B or 1, …].

    ``norm``: NONE, HEAD or TOKEN; ``weight``: None, [D] (HEAD) or [H · D] (TOKEN). x of bf16, fp16 or fp32, the
    others of any float dtype; checked by the caller. The result is contiguous.
    """
    return launch(x, weight, cos, sin, eps, norm, interleaved, tokens)


@norm_rotary.register_fake
def _(x, weight, cos, sin, eps, norm, interleaved, tokens):
    return x.new_empty(x.shape)


def launch(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    norm: int,
    interleaved: bool,
    tokens: int,
    *,
    tile: int = TILE,
    warps: int | None = None,
) -> Tensor:
    """:func:`norm_rotary` without its wrapper; ``tile`` and ``warps`` (None: as many as the tile wants) for tuning.

    Raises :class:`UnsupportedError` for more numbers that are normed together than fit one program.
    """
    B, S, H, D = x.shape
    HEADS, HALF = power_of_two(H), power_of_two(D // 2)
    if norm != TOKEN:
        HEADS = max(1, min(HEADS, tile // (2 * HALF)))
    if HEADS * HALF * 2 > MOST:
        raise UnsupportedError(
            f"norm and rotary embedding in one kernel take up to {MOST} numbers that are normed together, heads and "
            f"head size each rounded up to a power of two; these are {H} x {D}. Call rms_norm, then rotary"
        )
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    if x.stride(-1) != 1:
        x = x.contiguous()
    shared = cos.ndim == 2 or cos.shape[0] == 1  # by all of the batch
    cos_strides, sin_strides = ((0 if shared else t.stride(0), *t.stride()[-2:]) for t in (cos, sin))
    with torch.cuda.device_of(x):  # Triton launches on the current device
        norm_rotary_kernel[(B * S, -(-H // HEADS))](
            out,
            x,
            None if weight is None else weight.contiguous(),
            cos,
            sin,
            float(eps),
            S,
            tokens,
            x.stride()[:3],
            cos_strides,
            sin_strides,
            H,
            D,
            HEADS,
            HALF,
            norm != NONE,
            norm == TOKEN,
            weight is not None,
            interleaved,
            num_warps=warps or min(WARPS_MAX, max(1, HEADS * HALF * 2 // (32 * PER_THREAD))),
        )
    return out
