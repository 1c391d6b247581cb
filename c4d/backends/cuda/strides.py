"""What several tensors of one shape have in common in memory: the fewest loops that visit all of them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

MOST = 4  # dimensions that a kernel here can walk: three of rows, one of columns
Strides = tuple[int, ...]


class Tiling(NamedTuple):
    """``tiles`` of ``ROWS`` x ``COLS`` numbers, ``blocks`` of them in a row, over ``rows`` rows."""

    rows: int
    blocks: int
    tiles: int
    ROWS: int
    COLS: int


class Walk(NamedTuple):
    """``sizes`` [n0, n1, n2, columns], outermost first and 1 where there is no such dimension, and the strides of
    each tensor over them, 0 where there is none. One run of memory in every tensor is sizes (1, 1, 1, n)."""

    sizes: tuple[int, int, int, int]
    strides: tuple[tuple[int, int, int, int], ...]


def coalesce(shape: Strides, strides: tuple[Strides, ...]) -> tuple[Strides, tuple[Strides, ...]]:
    """Sizes and strides, outermost first, without dimensions of size 1, adjacent ones merged where all tensors allow.

    The order is that of the first tensor's strides, so that it is walked through memory from end to end. ``shape``
    has no zero.
    """
    kept = [d for d in range(len(shape)) if shape[d] != 1]
    kept.sort(key=lambda d: [each[d] for each in strides], reverse=True)
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for d in kept:
        here = [each[d] for each in strides]
        if sizes and all(step[-1] == stride * shape[d] for step, stride in zip(steps, here, strict=True)):
            sizes[-1] *= shape[d]
            for step, stride in zip(steps, here, strict=True):
                step[-1] = stride
        else:
            sizes.append(shape[d])
            for step, stride in zip(steps, here, strict=True):
                step.append(stride)
    return tuple(sizes), tuple(map(tuple, steps))


@lru_cache(maxsize=1024)  # the same few shapes come back at every step
def walk(shape: Strides, strides: tuple[Strides, ...]) -> Walk | None:
    """How a kernel walks tensors of ``shape`` with these strides; None where it takes more than ``MOST`` loops."""
    sizes, steps = coalesce(shape, strides)
    if len(sizes) > MOST:
        return None
    if not sizes:
        return Walk((1, 1, 1, 1), ((0, 0, 0, 1),) * len(strides))
    gap = MOST - len(sizes)  # behind the rows that there are: a row's number then needs no division

    def padded(x: Strides, fill: int) -> tuple[int, int, int, int]:
        n0, n1, n2, columns = (*x[:-1], *[fill] * gap, x[-1])
        return n0, n1, n2, columns

    return Walk(padded(sizes, 1), tuple(padded(step, 0) for step in steps))


@lru_cache(maxsize=1024)
def tiling(sizes: tuple[int, int, int, int], block: int) -> Tiling:
    """How tiles of at most ``block`` numbers, a power of two, cover a walk."""
    rows, columns = sizes[0] * sizes[1] * sizes[2], sizes[3]
    COLS = min(block, power_of_two(columns))
    ROWS = min(block // COLS, power_of_two(rows))
    blocks = -(-columns // COLS)
    return Tiling(rows, blocks, -(-rows // ROWS) * blocks, ROWS, COLS)


def power_of_two(n: int) -> int:
    """The smallest one that is not less than ``n``; 1 for 0. (Triton's own takes ten times as long on the host.)"""
    return 1 << max(n - 1, 0).bit_length()
