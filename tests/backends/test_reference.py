"""The reference primitives against arithmetic in double precision."""

from __future__ import annotations

import pytest
import torch

from c4d.backends.reference import Reference

BACKEND = Reference()
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}
WEIGHTS = ([1.0], [0.5], [1.0, 0.25], [2.0, -1.0], [1.0, 3.0, -3.0], [-0.5, 1.0, 2.5, 1e-3])


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_lincomb_is_the_weighted_sum_in_a_new_tensor(dtype, weights):
    features = [torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(len(weights))]
    features[-1] = features[-1].transpose(0, 1).contiguous().transpose(0, 1)  # strides of another layout
    before = [x.clone() for x in features]
    out = BACKEND.lincomb(features, weights)
    exact = sum(w * x.double() for w, x in zip(weights, features, strict=True))
    assert out.dtype == dtype and (out.double() - exact).norm() <= ROUNDING[dtype] * exact.norm()
    out.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))


def test_lincomb_accumulates_in_single_precision():
    """In half precision the large terms would swallow the small one."""
    features = [torch.full((3,), value, dtype=torch.float16) for value in (60000.0, 1.0, 60000.0)]
    assert BACKEND.lincomb(features, [1.0, 1.0, -1.0]).tolist() == [1.0] * 3


def test_lincomb_wants_a_weight_for_each_feature():
    x = torch.ones(2)
    with pytest.raises(ValueError):
        BACKEND.lincomb([x, x, x], [1.0, 1.0])


@pytest.mark.parametrize("dtype", ROUNDING)
def test_change_sums_in_single_precision(dtype):
    now, before = (torch.randn(64, 33, generator=torch.Generator().manual_seed(i)).to(dtype) for i in (0, 1))
    delta, base = BACKEND.change(now, before).tolist()
    assert delta == pytest.approx((now.double() - before.double()).abs().sum().item(), rel=1e-5)
    assert base == pytest.approx(before.double().abs().sum().item(), rel=1e-5)
