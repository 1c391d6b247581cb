"""How much attention groups of tokens give to groups of tokens: exact, without the map of all queries and keys."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BYTES = 64 << 20  # of the largest tensor on the way, unless somebody says it
LEAST_SIDE = 64  # queries and keys at a time, before heads are taken one after the other


@dataclass(frozen=True)
class Groups:
    """``labels`` [S] int64: the group of each token, from 0 to ``count`` - 1; of a negative one the token has none."""

    labels: Tensor
    count: int

    def members(self, start: int, stop: int) -> Tensor:
        """[stop - start, count] fp32: 1 where a token is in a group."""
        numbers = torch.arange(self.count, device=self.labels.device)
        return (self.labels[start:stop, None] == numbers).float()

    def sizes(self) -> Tensor:
        """[count] fp32: how many tokens each has."""
        return torch.bincount(self.labels[self.labels >= 0], minlength=self.count).float()


def attention_mass(
    q: Tensor, k: Tensor, queries: Groups, keys: Groups, mask: Tensor | None = None, *, chunk_bytes: int = BYTES
) -> Tensor:
    """[H, queries.count, keys.count] fp32: of the attention of a query, the part on a group of keys; the mean over a
    group of queries, NaN for one without any.

    softmax(q kᵀ / √D + mask), computed for some queries and keys at a time: numerator and denominator are carried from
    keys to keys with the largest score so far (online softmax, arXiv 1805.02867), and keys are summed by their group on
    the way. A query that sees no key gives nothing to any.

    Args:
        q, k: [Sq, H, D] and [Sk, H, D], of any floating-point dtype; computed in fp32, also under autocast.
        queries, keys: of Sq and Sk tokens.
        mask: [1 or H, 1 or Sq, Sk], True where a query sees a key, or what is added to the scores.
        chunk_bytes: of the largest tensor on the way, the result and a label for each token left out; a handful of such
            tensors is there at once.

    Raises ValueError if ``chunk_bytes`` has no room for one query of one head.
    """
    Sq, H, D = q.shape
    heads, side = _at_a_time(H, max(D, queries.count, keys.count), chunk_bytes)
    out = torch.zeros(H, queries.count, keys.count, device=q.device)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        for h in range(0, H, heads):
            for start in range(0, Sq, side):
                stop = min(start + side, Sq)
                x = q[start:stop, h : h + heads].transpose(0, 1).float() * D**-0.5
                part = None if mask is None else _of(_of(mask, 0, h, h + heads), 1, start, stop)
                given = _given(x, k[:, h : h + heads], keys, part, side)
                members = queries.members(start, stop).T.expand(len(x), -1, -1)
                out[h : h + heads].baddbmm_(members, given)
    return out.div_(queries.sizes()[:, None])


def _at_a_time(heads: int, width: int, chunk_bytes: int) -> tuple[int, int]:
    """How many heads, and how many queries and keys; ``width``: the most numbers that a token of a head has."""
    room = chunk_bytes // 4
    if room < width:
        raise ValueError(f"{chunk_bytes} bytes have no room for one query of one head, {4 * width}: allow more")
    count = max(1, min(heads, room // (width * LEAST_SIDE)))
    return count, max(1, min(math.isqrt(room // count), room // (count * width)))


def _given(x: Tensor, k: Tensor, keys: Groups, mask: Tensor | None, side: int) -> Tensor:
    """[h, n, keys.count]: of the attention of queries [h, n, D] the part on each group of keys [Sk, h, D]."""
    top = x.new_full((*x.shape[:2], 1), -torch.inf)
    whole, given = torch.zeros_like(top), x.new_zeros(*x.shape[:2], keys.count)
    for start in range(0, k.shape[0], side):
        stop = min(start + side, k.shape[0])
        scores = x @ k[start:stop].permute(1, 2, 0).float()
        if mask is not None:
            part = mask[..., start:stop]
            scores = scores.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else scores.add_(part)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        least = new.clamp_min(torch.finfo(torch.float32).min)  # where no key was seen so far
        fade = (top - least).exp_()
        scores.sub_(least).exp_()
        whole.mul_(fade).add_(scores.sum(-1, keepdim=True))
        given.mul_(fade).baddbmm_(scores, keys.members(start, stop).expand(len(x), -1, -1))
        top = new
    return given.div_(whole.clamp_min_(torch.finfo(torch.float32).tiny))


def _of(mask: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Its part along ``dim``, where it has one for each."""
    return mask if mask.shape[dim] == 1 else mask.narrow(dim, start, min(stop, mask.shape[dim]) - start)
