from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from c4d.metrics import psnr, ssim


def noisy_pair(n: int = 2, frames: int = 2, height: int = 11, width: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(n, 3, frames, height, width, generator=generator)
    b = (a + 0.2 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    return a, b


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook formula, window by window, in double precision with two-pass variances."""
    values = []
    for channel in range(a.shape[0]):
        for frame in range(a.shape[1]):
            for top in range(a.shape[2] - 6):
                for left in range(a.shape[3] - 6):
                    x = a[channel, frame, top : top + 7, left : left + 7].astype(np.float64)
                    y = b[channel, frame, top : top + 7, left : left + 7].astype(np.float64)
                    covariance = ((x - x.mean()) * (y - y.mean())).mean()
                    luminance = (2 * x.mean() * y.mean() + 1e-4) / (x.mean() ** 2 + y.mean() ** 2 + 1e-4)
                    values.append(luminance * (2 * covariance + 9e-4) / (x.var() + y.var() + 9e-4))
    return float(np.mean(values))


@pytest.mark.parametrize(("offset", "decibels"), [(0.1, 20.0), (0.01, 40.0), (0.5, 20 * math.log10(2)), (1.0, 0.0)])
def test_psnr_of_a_constant_error(offset: float, decibels: float) -> None:
    a = torch.zeros(3, 3, 4, 8, 8)
    torch.testing.assert_close(psnr(a + offset, a), torch.full((3,), decibels), rtol=0, atol=1e-4)


def test_psnr_against_a_slow_formula() -> None:
    a, b = noisy_pair()
    errors = [np.mean((x.numpy().astype(np.float64) - y.numpy()) ** 2) for x, y in zip(a, b, strict=True)]
    expected = torch.tensor([10 * math.log10(1 / error) for error in errors])
    torch.testing.assert_close(psnr(a, b), expected, rtol=1e-5, atol=1e-5)


def test_ssim_against_a_slow_formula() -> None:
    a, b = noisy_pair()
    expected = torch.tensor([slow_ssim(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)])
    assert expected.min() > 0.3 and expected.max() < 0.95  # or the comparison would show little
    torch.testing.assert_close(ssim(a, b), expected, rtol=0, atol=1e-6)


def test_ssim_of_two_constants() -> None:
    """Without variance only the luminance term is left: (2 * .2 * .6 + C1) / (.04 + .36 + C1)."""
    a, b = torch.full((1, 3, 1, 8, 8), 0.2), torch.full((1, 3, 1, 8, 8), 0.6)
    torch.testing.assert_close(ssim(a, b), torch.tensor([0.2401 / 0.4001]), rtol=0, atol=1e-6)


def test_identical_clips() -> None:
    a, _ = noisy_pair()
    assert torch.equal(psnr(a, a), torch.full((2,), math.inf))
    assert torch.equal(ssim(a, a), torch.ones(2))


def test_each_clip_has_its_own_value() -> None:
    a, b = noisy_pair(n=3)
    mixed = torch.stack([a[0], b[1], a[2]])
    assert psnr(mixed, a).isinf().tolist() == [True, False, True]
    torch.testing.assert_close(ssim(mixed, a)[1], ssim(b, a)[1])
    for metric in (psnr, ssim):
        assert metric(a, b).shape == (3,)
        torch.testing.assert_close(metric(a, b), metric(b, a))


def test_more_noise_is_worse() -> None:
    a, _ = noisy_pair()
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    for metric in (psnr, ssim):
        values = [metric((a + scale * noise).clamp(0, 1), a).mean().item() for scale in (0.01, 0.03, 0.1, 0.3)]
        assert values == sorted(values, reverse=True)


def test_nan_shows() -> None:
    a, b = noisy_pair()
    b[0, 0, 0, 0, 0] = float("nan")
    assert psnr(b, a).isnan().tolist() == [True, False]
    assert ssim(b, a).isnan().tolist() == [True, False]


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_input_is_named(metric) -> None:
    a, b = noisy_pair()
    with pytest.raises(ValueError, match=r"shapes \(2, 3, 2, 11, 9\) and \(1, 3, 2, 11, 9\); allowed are equal"):
        metric(a, b[:1])
    with pytest.raises(ValueError, match=r"reference has values from -0.99.*; allowed is \[0, 1\]"):
        metric(a, b.clamp(0.003, 1) * 2 - 1)
    with pytest.raises(ValueError, match=r"video has shape \(3, 2, 11, 9\)"):
        metric(a[0], b[0])


def test_ssim_needs_a_whole_window() -> None:
    small = torch.zeros(1, 3, 1, 6, 20)
    with pytest.raises(ValueError, match="6x20 pixels; allowed are at least 7x7"):
        ssim(small, small)
