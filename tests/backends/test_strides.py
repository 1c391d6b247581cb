"""Walks over strided tensors against the offsets of every index, and offsets that 32 bits do not hold."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c4d.backends.cuda.strides import MOST, coalesce, walk
from tests.backends.guard import BACKENDS


def offsets(sizes, strides):
    """The place of every number in every tensor, as a sorted list."""
    indices = itertools.product(*map(range, sizes))
    return sorted(tuple(sum(i * s for i, s in zip(index, each, strict=True)) for each in strides) for index in indices)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=6))
    dense = []
    for _ in range(draw(st.integers(1, 4))):
        stride, step = [0] * len(shape), 1
        for d in draw(st.permutations(range(len(shape)))):
            step *= draw(st.sampled_from([1, 1, 1, 2]))
            stride[d] = draw(st.sampled_from([step, step, step, 0]))
            step *= shape[d]
        dense.append(tuple(stride))
    return tuple(shape), tuple(dense)


@settings(deadline=None, max_examples=300)
@given(tensors())
def test_a_walk_visits_every_number_once(case):
    shape, strides = case
    sizes, steps = coalesce(shape, strides)
    assert offsets(sizes, steps) == offsets(shape, strides)
    assert 1 not in sizes
    for d in range(len(sizes) - 1):
        assert any(step[d] != step[d + 1] * sizes[d + 1] for step in steps), "these two are one"
        assert steps[0][d] >= steps[0][d + 1]
    plan = walk(shape, strides)
    assert (plan is None) == (len(sizes) > MOST)
    if plan is not None:
        assert offsets(plan.sizes, plan.strides) == offsets(shape, strides)


@pytest.mark.parametrize(
    "shape, strides, sizes",
    [
        ((), ((), ()), (1, 1, 1, 1)),
        ((2, 3, 5), ((15, 5, 1), (15, 5, 1)), (1, 1, 1, 30)),
        ((2, 3, 5), ((1, 2, 6), (1, 2, 6)), (1, 1, 1, 30)),
        ((2, 3, 5), ((15, 5, 1), (20, 5, 1)), (2, 1, 1, 15)),  # without the text: a division for rows is not needed
        ((2, 3, 1, 5), ((15, 5, 5, 1), (15, 5, 99, 1)), (1, 1, 1, 30)),
        ((2, 3, 5), ((15, 5, 1), (0, 0, 0)), (1, 1, 1, 30)),
        ((2, 3, 5), ((15, 5, 1), (5, 0, 1)), (2, 3, 1, 5)),
    ],
)
def test_as_few_loops_as_can_be(shape, strides, sizes):
    assert walk(shape, strides).sizes == sizes


# -- offsets beyond 2^31; only the pages that are touched take memory

FAR = 2**31


@pytest.fixture(scope="module")
def far():
    return torch.empty(FAR + 5000, dtype=torch.bfloat16)


@pytest.mark.parametrize("step, rows", [(FAR, 2), (FAR // 2, 3)], ids=["stride", "product"])
def test_a_row_may_lie_far_away(far, step, rows):
    backend = BACKENDS["interpreted"]
    view = far.as_strided((rows, 40), (step, 1))
    values = (torch.arange(rows * 40) % 64).view(rows, 40).to(torch.bfloat16)
    view.copy_(values)
    assert torch.equal(backend.lincomb([view, view], [1.0, 1.0]), 2 * values)
    assert backend.change(view, torch.zeros(rows, 40)).tolist() == [values.float().sum().item(), 0]
    x = far.as_strided((rows, 2, 2, 10), (step, 20, 10, 1))
    cos, sin = torch.zeros(2, 5), torch.ones(2, 5)
    expected = BACKENDS["reference"].rotary(x.contiguous(), cos, sin, interleaved=False)
    assert torch.equal(backend.rotary(x, cos, sin, interleaved=False), expected)


def test_a_column_may_lie_far_away(far, monkeypatch):
    """Only the last program of a million is run."""
    import triton.runtime.interpreter as interpreter

    monkeypatch.setattr(interpreter, "range", lambda *n: [n[0] - 1] if n[0] > 10**5 else range(*n), raising=False)
    far[-2000:] = (torch.arange(2000) % 64).to(torch.bfloat16)
    out = BACKENDS["interpreted"].lincomb([far], [2.0])
    tail = far.numel() % 2048
    assert torch.equal(out[-tail:], 2 * far[-tail:])
