"""Triton kernels of caching: a weighted sum of features and the change between two, each in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from c4d.backends.cuda.strides import power_of_two, tiling, walk

# Not tuned on hardware: chosen so that a thread has several loads of 16 bytes under way at once.
BLOCK = 2048  # numbers that one program takes at a time
WARPS = 4
PROGRAMS = 1024  # partial sums of a change, a power of two: not the device's, so that every device adds in one order
INPUTS = 8  # features of one launch; a kernel is compiled for each count


@triton.jit
def place(tile, sizes, rows, blocks, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Indices of a tile [ROWS, COLS] along the four dimensions of a walk, and which of its numbers there are."""
    row = (tile // blocks).to(rows.dtype) * ROWS + tl.arange(0, ROWS)[:, None]  # 64 bits only where rows need them
    column = (tile % blocks).to(tl.int64) * COLS + tl.arange(0, COLS)[None, :]
    keep = column < sizes[3]
    if ROWS > 1:  # else the grid ends with the last row, and a mask would only stand in the way of wide loads
        keep = keep & (row < rows)
    outer = row // sizes[2]
    return outer // sizes[1], outer % sizes[1], row % sizes[2], column, keep


@triton.jit
def at(pointer, i, j, k, column, strides):
    """Addresses in 64 bits: a clip's features pass 2^31 numbers."""
    row = i.to(tl.int64) * strides[0] + j.to(tl.int64) * strides[1] + k.to(tl.int64) * strides[2]
    return pointer + row + column * strides[3]


@triton.jit(do_not_specialize=["rows"])
def lincomb_kernel(
    out,
    features,  # tuple of pointers
    weights,  # tuple of numbers, or a pointer to fp32
    sizes,
    rows,
    blocks,  # tiles in a row
    strides,  # of out, then of each feature
    ON_DEVICE: tl.constexpr,
    CARRIED: tl.constexpr,  # the first feature is the partial sum of a launch before: it has no weight
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    i, j, k, column, keep = place(tl.program_id(0), sizes, rows, blocks, ROWS, COLS)
    total = tl.zeros([ROWS, COLS], tl.float32)
    for f in tl.static_range(len(features)):
        x = tl.load(at(features[f], i, j, k, column, strides[f + 1]), mask=keep).to(tl.float32)
        if CARRIED and f == 0:
            total += x
        elif ON_DEVICE:
            total += x * tl.load(weights + (f - CARRIED)).to(tl.float32)
        else:
            total += x * weights[f - CARRIED]
    tl.store(at(out, i, j, k, column, strides[0]), total.to(out.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize=["rows", "tiles"])
def change_kernel(
    partial,  # [2, PROGRAMS] fp32
    now,
    before,
    sizes,
    rows,
    blocks,
    tiles,
    strides,  # of now, then of before
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    program, tile = tl.program_id(0), tl.program_id(0)
    delta = tl.zeros([ROWS, COLS], tl.float32)
    base = tl.zeros([ROWS, COLS], tl.float32)
    while tile < tiles:  # not a range: Triton's interpreter takes no bounds from arguments
        i, j, k, column, keep = place(tile, sizes, rows, blocks, ROWS, COLS)
        x = tl.load(at(now, i, j, k, column, strides[0]), mask=keep, other=0.0).to(tl.float32)
        y = tl.load(at(before, i, j, k, column, strides[1]), mask=keep, other=0.0).to(tl.float32)
        delta += tl.abs(x - y)
        base += tl.abs(y)
        tile += PROGRAMS
    tl.store(partial + program, tl.sum(delta))
    tl.store(partial + PROGRAMS + program, tl.sum(base))


@triton.jit
def finish_kernel(out, partial, PROGRAMS: tl.constexpr):
    """The partial sums in a fixed order."""
    for which in tl.static_range(2):
        tl.store(out + which, tl.sum(tl.load(partial + which * PROGRAMS + tl.arange(0, PROGRAMS))))


def lincomb(
    features: Sequence[Tensor], weights: Sequence[float] | Tensor, *, block: int = BLOCK, warps: int = WARPS
) -> Tensor:
    """sum_k weights[k] · features[k], accumulated in fp32, in the dtype and (if dense) the layout of ``features[0]``.

    ``features``: K >= 1 of bf16, fp16 or fp32, each of its own dtype and strides, checked by the caller; what takes
    more than four loops to walk is copied first. ``weights``: K numbers, passed as arguments of the kernel, or [K] on
    the device, read by it. Never waits for the device. Up to ``INPUTS`` features are one launch; beyond, an fp32
    partial sum goes from launch to launch.
    """
    out = torch.empty_like(features[0])
    if not out.numel():
        return out
    plan = walk(tuple(out.shape), (out.stride(), *(x.stride() for x in features)))
    if plan is None:
        return lincomb([x.contiguous() for x in features], weights, block=block, warps=warps)
    on_device = isinstance(weights, Tensor)
    # Floats, because Triton would compile an int of 1 into the kernel.
    given = weights.contiguous() if isinstance(weights, Tensor) else tuple(map(float, weights))
    first, *strides = plan.strides
    rows, blocks, tiles, ROWS, COLS = tiling(plan.sizes, block)
    left, carried, done = list(zip(features, strides, strict=True)), False, 0
    while left:
        now, left = left[:INPUTS], left[INPUTS:]
        target = torch.empty_like(out, dtype=torch.float32) if left else out
        count = done + len(now) - carried
        with torch.cuda.device_of(out):  # Triton launches on the current device
            lincomb_kernel[(tiles,)](
                target,
                tuple(x for x, _ in now),
                given[done:count],
                plan.sizes,
                rows,
                blocks,
                (first, *(stride for _, stride in now)),
                on_device,
                carried,
                ROWS,
                COLS,
                num_warps=warps,
            )
        if left:
            left, carried, done = [(target, first), *left], True, count
    return out


def change(now: Tensor, before: Tensor, *, block: int = BLOCK, warps: int = WARPS, programs: int = PROGRAMS) -> Tensor:
    """[2] fp32: sum|now - before| and sum|before|, in an order that only shape, strides and the keywords decide.

    ``now`` and ``before``: bf16, fp16 or fp32, of one shape, any strides; what takes more than four loops to walk is
    copied first.
    """
    if not now.numel():
        return now.new_zeros(2, dtype=torch.float32)
    plan = walk(tuple(now.shape), (now.stride(), before.stride()))
    if plan is None:
        return change(now.contiguous(), before.contiguous(), block=block, warps=warps, programs=programs)
    rows, blocks, tiles, ROWS, COLS = tiling(plan.sizes, block)
    programs = min(programs, power_of_two(tiles))  # one of a few counts: a kernel is compiled for each
    partial = now.new_empty(2, programs, dtype=torch.float32)
    out = now.new_empty(2, dtype=torch.float32)
    with torch.cuda.device_of(now):
        change_kernel[(programs,)](
            partial, now, before, plan.sizes, rows, blocks, tiles, plan.strides, programs, ROWS, COLS, num_warps=warps
        )
        finish_kernel[(1,)](out, partial, programs, num_warps=warps)
    return out
