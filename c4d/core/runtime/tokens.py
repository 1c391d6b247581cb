"""Single tokens of a forward: where they lie, random numbers for them, and the rows of a batch that pick alike."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


def cells_of(grid: Sequence[Sequence[int]], side: int) -> Tensor:
    """[S] int64: for each token of the boxes of ``grid`` the number, from 1, of the cell of ``side`` x ``side`` tokens
    of its frame in which it lies; of a line, of ``side`` tokens."""
    found, count = [], 1
    for box in grid:
        cell, here = torch.zeros(*box, dtype=torch.int64), 1
        for axis, n in enumerate(box):
            size = side if axis >= len(box) - 2 else 1
            shape = [n if i == axis else 1 for i in range(len(box))]
            cell = cell * -(-n // size) + (torch.arange(n) // size).view(shape)
            here *= -(-n // size)
        found.append(cell.flatten() + count)
        count += here
    return torch.cat(found)


def lying(cells: Tensor, tokens: int, joined: str | None) -> Tensor:
    """[tokens]: the cells of a stream, in which text may stand beside the image; 0 for what lies in no cell."""
    more = tokens - len(cells)
    if more and (joined is None or more < 0):
        return cells.new_zeros(tokens)  # it is of other tokens, such as text
    text = cells.new_zeros(more)
    return torch.cat((cells, text) if joined == "first" else (text, cells))


def drawn(n: int, step: int, key: str, device: torch.device) -> Tensor:
    """``n`` fp32 numbers in [0, 1): the same ones for ``step`` and ``key`` in any process, branch and run."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{step}:{key}".encode()))
    return torch.rand(n, generator=generator).to(device, non_blocking=True)


def twins(latents: Sequence[Tensor]) -> Tensor | None:
    """[B, B] fp32, on the device: averages over the rows of a batch that have equal latents, which are branches of
    guidance of one sample; None if there is only one row."""
    rows = latents[0].shape[0] if latents[0].ndim else 1
    if rows == 1 or any(x.shape[:1] != (rows,) for x in latents):
        return None
    equal = torch.stack([(x[:, None] == x[None]).flatten(2).all(2) for x in latents]).all(0).float()
    return equal / equal.sum(1, keepdim=True)


def averaged(score: Tensor, pairs: Tensor | None) -> Tensor:
    """[B f, S] averaged over :func:`twins`; blocks may take a batch apart into ``f`` rows a sample, of their frames."""
    if pairs is None or score.shape[0] % len(pairs):
        return score
    return (pairs @ score.reshape(len(pairs), -1)).view_as(score)
