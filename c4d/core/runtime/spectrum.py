"""Latents in frequency, by matrix products alone: every device has those, and not every one a Fourier transform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from c4d.core.runtime.signals import exact
from c4d.core.runtime.steps import NoiseLevel


def leading(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` cut to ``shape``: its leading entries along every side that is longer (channels of a condition follow)."""
    if x.ndim != len(shape) or any(have < want for have, want in zip(x.shape, shape, strict=True)):
        raise ValueError(
            f"the output {list(shape)} is not like the latents {list(x.shape)}; cache at @blocks, "
            "or with a method that keeps what is returned as it is (taylorseer-lite, dmd)"
        )
    return x[tuple(slice(n) for n in shape)]


def like_output(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` cut to ``shape``; where an output has more channels (variances follow the mean) zeros are added."""
    if x.ndim == len(shape) and x.shape[0] == shape[0] and x.shape[1] < shape[1] and x.shape[2:] == shape[2:]:
        more = x.new_zeros(x.shape[0], shape[1] - x.shape[1], *shape[2:])
        return torch.cat((x, more), 1)
    return leading(x, shape)


def evolved(x: Tensor, box: Sequence[int], level: NoiseLevel, power: float = 3.0) -> Tensor:
    """Latents weighted in frequency by what the noise leaves of them (SeaCache, arXiv 2602.18993, eq. 5 to 7).

    ``x`` [B, C, *sides], or tokens [B, S, C] of which the leading ones lie in ``box``. Along every axis the gain of
    Wiener's filter, a P / (a^2 P + s^2) with a signal of power P = 1 / |f|^``power``, all of it scaled to a mean of 1.
    fp32, in the shape that was filtered.
    """
    if x.ndim == 3 and math.prod(box) > x.shape[1]:
        raise RuntimeError(f"the spec's grid {tuple(box)} has more places than the {x.shape[1]} tokens of the latents")
    if x.ndim == 3:
        x = x[:, : math.prod(box)].reshape(x.shape[0], *box, x.shape[2]).movedim(-1, 1)
    x = x.float()
    noise = min(max(level.noise, 1e-6), 1.0 - 1e-6)
    signal, total = max(level.signal, 1e-6), 1.0
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        powers = [1.0 / (abs((k if 2 * k < n else k - n) / n) ** power + 1e-16) for k in range(n)]
        gain = [signal * p / (signal**2 * p + noise**2 + 1e-16) for p in powers]
        total *= math.fsum(gain) / n
        with exact(x):
            x = (x.movedim(axis, -1) @ _circulant(gain).to(x.device)).movedim(-1, axis)
    return x / total


def _circulant(gain: Sequence[float]) -> Tensor:
    """[n, n] fp32: the circular convolution that multiplies the k-th frequency by ``gain[k]`` = ``gain[n - k]``."""
    n = len(gain)
    angles = 2.0 * math.pi * torch.arange(n, dtype=torch.float64).outer(torch.arange(n, dtype=torch.float64)) / n
    kernel = torch.cos(angles) @ torch.tensor(gain, dtype=torch.float64) / n
    places = torch.arange(n)
    return kernel[(places[:, None] - places) % n].float()


def slow_waves(x: Tensor, part: float) -> Tensor:
    """Of pictures [..., H, W] the Fourier waves (k, l) with k^2 + l^2 <= r^2; fp32, by matrix products.

    r is ``part`` of the shorter side, rounded down, so that 0.2 is the lowest fifth of its frequencies.
    """
    sides = x.shape[-2:]
    r = int(part * min(sides) + 1e-9)
    k = torch.arange(-r, r + 1)
    keep = ((k[:, None] ** 2 + k**2 <= r * r).float() / math.prod(sides)).to(x.device)
    turns = [2.0 * math.pi * k.double().outer(torch.arange(n, dtype=torch.float64)) / n for n in sides]
    (ch, sh), (cw, sw) = ((t.cos().float().to(x.device), t.sin().float().to(x.device)) for t in turns)
    with exact(x):
        x = x.float()
        rows_c, rows_s = ch @ x, sh @ x
        real = keep * (rows_c @ cw.T - rows_s @ sw.T)
        imaginary = keep * -(rows_c @ sw.T + rows_s @ cw.T)
        return ch.T @ (real @ cw - imaginary @ sw) - sh.T @ (real @ sw + imaginary @ cw)


def low_pass(boxes: Sequence[Sequence[int]], cutoff: float) -> Tensor:
    """[K, S] fp32: orthonormal cosines (DCT-II) over each box in turn whose radial frequency is at most ``cutoff``.

    The radius of (k_1, k_2, ...) is the length of (k_1 / (n_1 - 1), ...), and ``cutoff`` is a part of the largest.
    """
    rows, start, whole = [], 0, sum(math.prod(box) for box in boxes)
    for box in boxes:
        sides = [n for n in box if n > 1]
        scale = [torch.arange(n, dtype=torch.float64) / (n - 1) for n in sides]
        radius = torch.zeros((), dtype=torch.float64)
        for s in scale:
            radius = (radius[..., None] ** 2 + s**2).sqrt()
        for index in (radius <= cutoff * math.sqrt(max(1, len(sides)))).nonzero().tolist():
            wave = torch.ones((), dtype=torch.float64)
            for n, k in zip(sides, index, strict=True):
                places = torch.arange(n, dtype=torch.float64) + 0.5
                norm = math.sqrt((1.0 if k == 0 else 2.0) / n)
                wave = wave[..., None] * (norm * torch.cos(math.pi * k * places / n))
            row = torch.zeros(whole)
            row[start : start + wave.numel()] = wave.flatten().float()
            rows.append(row)
        start += math.prod(box)
    return torch.stack(rows)
