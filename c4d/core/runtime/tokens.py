"""Single tokens of a forward: where they lie, what they weigh in an attention, random numbers, rows that pick alike."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from c4d.core.spec import STREAM


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


def frames_of(grid: Sequence[Sequence[int]]) -> Tensor:
    """[S] int64: for each token of the boxes of ``grid`` the number, from 1, of its frame; a picture is one."""
    counts = [(box[0] if len(box) > 2 else 1, math.prod(box)) for box in grid]
    sizes = torch.tensor([size // n for n, size in counts for _ in range(n)])
    return torch.arange(1, len(sizes) + 1).repeat_interleave(sizes)


def alike_in_size(groups: Tensor) -> list[Tensor]:
    """The places [F, n] int64 of the tokens of F groups of n each, a tensor for each n; ``groups`` [S] numbers them."""
    found: dict[int, list[Tensor]] = {}
    for number in torch.unique(groups):
        places = (groups == number).nonzero().flatten()
        found.setdefault(len(places), []).append(places)
    return [torch.stack(places) for places in found.values()]


def lying(cells: Tensor, tokens: int, streams: Sequence[str], joined: str | None) -> Tensor:
    """[tokens]: the cells of a module's tokens, which are of ``streams``; 0 for what lies in no cell, such as text.

    ``joined``: where in one sequence of text and image the image stands, the ``"first"`` tokens or the ``"last"``.
    """
    more = tokens - len(cells)
    if STREAM not in streams or more < 0 or (more and joined is None and len(streams) == 1):
        return cells.new_zeros(tokens)
    text = cells.new_zeros(more)
    first = joined == "first" or (joined is None and streams[0] == STREAM)
    return torch.cat((cells, text) if first else (text, cells))


def lengths(x: Tensor) -> Tensor:
    """[B, S] fp32: the L2 norm of keys or values [B, S, H, D], the mean over the heads."""
    norms: Tensor = torch.linalg.vector_norm(x.float(), dim=3)
    return norms.mean(2)


CHUNK = 1 << 24  # numbers of an attention map that are there at once


def received(q: Tensor, k: Tensor, mask: Tensor | None, chunk: int = CHUNK) -> Tensor:
    """[B, Sk] fp32: how much attention each key receives, summed over heads and queries; q and k [B, S, H, D].

    The map itself is never there as a whole: it is made for as many queries at a time as ``chunk`` numbers allow, at
    least one. ``mask`` [B, 1 or H, 1 or Sq, Sk], True where a query sees a key, or what is added to the scores. A query
    that sees no key gives nothing.
    """
    B, S, H, D = q.shape
    keys, total = k.permute(0, 2, 3, 1), torch.zeros(B, k.shape[1], dtype=torch.float32, device=q.device)
    size = max(1, chunk // (B * H * k.shape[1]))
    for start in range(0, S, size):
        scores = (q[:, start : start + size].transpose(1, 2) * D**-0.5 @ keys).float()
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., start : start + size, :]
            scores = scores.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else scores + part
        total += scores.softmax(3).nan_to_num(0.0).sum((1, 2))
    return total


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
