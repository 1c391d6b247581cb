"""Attention over tokens that are spread over ranks: Ulysses, Ring, and both, exact to the rounding of partial sums.

Ulysses (arXiv 2309.14509) exchanges tokens for heads in one collective for queries, keys and values together and one
for the output. Ring (arXiv 2310.01889) passes keys and values on while it computes with those it has; partial results
merge by their log-sum-exp in fp32. What does not divide is filled up: tokens at the end, which are sliced off the keys
(never attended, and no mask that would exclude the fast kernels), and heads of zeros, which are sliced off the output.
Text that every rank has joins the first tokens' keys; partial results for its queries merge in the order of the tokens
on every rank, so that the ranks' copies of the text stay the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.backends import Backend
from c4d.core.attention import Sees
from c4d.parallel.collectives import Group, exchange, gather, pass_on, wait

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
AttendLse = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
QKV = tuple[Tensor, Tensor, Tensor]
Part = tuple[Tensor, Tensor | None]  # output [B, S, H, D], log-sum-exp [B, H, S] (None: it is all there is)


class Kernels(NamedTuple):
    """A backend's attention with and without its log-sum-exp: (q, k, v, mask) as in ``Backend.attention``."""

    plain: Attend
    lse: AttendLse

    @classmethod
    def of(cls, backend: Backend, kernel: str = "auto") -> Kernels:
        """Those of ``backend``, through the kernel of that name."""

        def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return backend.attention(q, k, v, mask=mask, kernel=kernel)

        def lse(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
            return backend.attention_lse(q, k, v, mask=mask, kernel=kernel)

        return cls(plain, lse)


class Text(NamedTuple):
    """Queries, keys and values [B, T, H, D] that every rank has.

    ``kept``: how many leading ones each sample's queries see (None: all); or ``mask`` [B, T], True: seen.
    """

    qkv: QKV
    kept: tuple[int, ...] | None = None
    mask: Tensor | None = None


def ulysses_attention(qkv: QKV, length: int, kernels: Kernels, group: Group, sees: Sees) -> Tensor:
    """This rank's tokens [B, n, H, D] after attention to what ``sees`` makes of the ``length`` tokens and its heads."""
    heads = qkv[0].shape[2]
    q, k, v = to_heads(qkv, group)
    return to_tokens(kernels.plain(q, *sees(k[:, :length], v[:, :length], None)), group)[:, :, :heads]


def sp_attention(
    qkv: QKV, length: int, kernels: Kernels, ulysses: Group | None, ring: Group | None, text: Text | None = None
) -> tuple[Tensor, Tensor | None]:
    """This rank's tokens [B, n, H, D] after attention to all ``length`` of them and to the text; the text [B, T, H, D].

    Rank r·U + u has the tokens from (r·U + u)·n on; what it has beyond ``length`` is filling.
    """
    q, _, _ = qkv
    heads = q.shape[2]
    words = None if text is None else text.qkv
    if ulysses is not None:
        qkv = to_heads(qkv, ulysses)
        words = None if words is None else own_heads(words, ulysses)
    q, k, v = qkv
    joined = q if words is None else torch.cat((q, words[0]), 1)
    block, size, here = q.shape[1], 1 if ring is None else ring.size, 0 if ring is None else ring.rank
    held, total = None if ring is None else torch.stack((k, v)), None
    words_parts: dict[int, Part] = {}  # a literal: compilers do not follow dict[…]()
    for hop in range(size):
        source = (here - hop) % size
        coming = pass_on(held, ring) if held is not None and ring is not None and hop + 1 < size else None
        valid = max(0, min(block, length - source * block))
        if valid:
            there = text if source == 0 else None
            own = words if source == 0 else None
            part = _seen(joined, k[:, :valid], v[:, :valid], own, there, kernels, size > 1)
            tokens, words_parts[source] = _cut(part, block)
            total = tokens if total is None else merged(total, tokens)
        if coming is not None and held is not None:
            held = wait(coming).view_as(held)
            k, v = held.unbind(0)
    assert total is not None  # the first block is never without tokens
    out = total[0].to(q.dtype)
    if ulysses is not None:
        out = to_tokens(out, ulysses)[:, :, :heads]
    if words is None:
        return out, None
    first, *rest = (words_parts[source] for source in sorted(words_parts))
    for part in rest:
        first = merged(first, part)
    said = first[0].to(q.dtype)
    if ulysses is not None:
        said = gather(said, ulysses).permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :heads]
    return out, said


def over_all_keys(q: Tensor, k: Tensor, v: Tensor, lse: AttendLse, group: Group) -> Tensor:
    """Queries [B, T, H, D] that every rank has, over keys and values of which this rank has [B, n, H, D], n >= 0.

    Each attends to its own; the partial results of all merge in the order of the ranks, so that the ranks' copies of
    the result stay the same bits. What is sent does not grow with the keys.
    """
    if k.shape[1]:
        out, total = lse(q, k, v, None)
    else:
        out, total = torch.zeros_like(q), q.new_full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf).float()
    outs, totals = gather(out, group), gather(total.float(), group)
    parts = zip(outs, totals, strict=True)
    merge: Part = next(parts)
    for part in parts:
        merge = merged(merge, part)
    return merge[0].to(q.dtype)


def to_heads(qkv: QKV, group: Group) -> QKV:
    """[B, n, H, D] of this rank's tokens -> [B, U·n, h, D] of all tokens and this rank's heads, h = ⌈H/U⌉."""
    by_rank = [_filled(x, group).unflatten(2, (group.size, -1)).permute(2, 0, 1, 3, 4) for x in qkv]
    x = exchange(torch.stack(by_rank, 1), group)  # [U, 3, B, n, h, D]
    q, k, v = x.permute(1, 2, 0, 3, 4, 5).flatten(2, 3).unbind(0)
    return q, k, v


def to_tokens(out: Tensor, group: Group) -> Tensor:
    """The way back: [B, U·n, h, D] -> [B, n, U·h, D]."""
    x = exchange(out.unflatten(1, (group.size, -1)).transpose(0, 1), group)  # [U, B, n, h, D]
    return x.permute(1, 2, 0, 3, 4).flatten(2, 3)


def own_heads(qkv: QKV, group: Group) -> QKV:
    q, k, v = (_filled(x[None], group)[0].chunk(group.size, 2)[group.rank] for x in qkv)
    return q, k, v


def merged(a: Part, b: Part) -> Part:
    """Two partial results over different keys as one, in fp32; a query that neither saw any key for stays zero."""
    (out, lse), (more, its) = a, b
    assert lse is not None and its is not None
    total = torch.logaddexp(lse, its)
    floor = total.clamp_min(torch.finfo(total.dtype).min)  # exp(-inf - finite) = 0 where nothing is seen
    mine, other = ((x - floor).exp().transpose(1, 2)[..., None] for x in (lse, its))
    return out.float() * mine + more.float() * other, total


def _seen(
    q: Tensor, k: Tensor, v: Tensor, words: QKV | None, text: Text | None, kernels: Kernels, partial: bool
) -> Part:
    """Queries over keys and values [B, K, H, D], and over the text that goes with them."""
    if words is None or text is None:
        return _run(q, k, v, None, kernels, partial)
    if text.kept is not None and len(set(text.kept)) > 1:  # sample by sample without a mask: fast kernels take none
        each = [
            _run(q[i : i + 1], _with(k, words[1], n, i), _with(v, words[2], n, i), None, kernels, partial)
            for i, n in enumerate(text.kept)
        ]
        outs, totals = zip(*each, strict=True)
        return torch.cat(outs), torch.cat(totals) if partial else None
    count = words[1].shape[1] if text.kept is None else text.kept[0]
    mask = None
    if text.mask is not None:
        seen = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device)
        mask = torch.cat((seen, text.mask), 1)[:, None, None]
    return _run(q, _with(k, words[1], count), _with(v, words[2], count), mask, kernels, partial)


def _run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kernels: Kernels, partial: bool) -> Part:
    return kernels.lse(q, k, v, mask) if partial else (kernels.plain(q, k, v, mask), None)


def _with(tokens: Tensor, words: Tensor, count: int, sample: int | None = None) -> Tensor:
    """``tokens`` and the first ``count`` of ``words`` behind them, of one sample or of all."""
    if sample is not None:
        tokens, words = tokens[sample : sample + 1], words[sample : sample + 1]
    return torch.cat((tokens, words[:, :count]), 1)


def _cut(part: Part, block: int) -> tuple[Part, Part]:
    out, lse = part
    return (out[:, :block], None if lse is None else lse[..., :block]), (
        out[:, block:],
        None if lse is None else lse[..., block:],
    )


def _filled(x: Tensor, group: Group) -> Tensor:
    """[..., H, D] with heads of zeros up to the next multiple of the group's size."""
    missing = -x.shape[-2] % group.size
    return F.pad(x, (0, 0, 0, missing)) if missing else x
