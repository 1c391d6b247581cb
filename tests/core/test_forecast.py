"""Forecasters are mathematics: constants, polynomials, the published ladder, each to fp64."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c4d.core.forecast import FORECASTERS, Hold, Newton, Taylor, backward_differences

EVERY = [Hold(), *(Taylor(k) for k in range(5)), Taylor(2, start=3.0), *(Newton(k) for k in range(5))]
gaps = st.lists(st.floats(0.25, 8.0), min_size=1, max_size=5)


def times_of(gaps):
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    return times


def value(weights, features):
    return math.fsum(w * f for w, f in zip(weights, features, strict=True))


@pytest.mark.parametrize("forecaster", EVERY, ids=repr)
@given(gaps=gaps, ahead=st.floats(0.0, 6.0))
def test_constants_are_reproduced(forecaster, gaps, ahead):
    times = times_of(gaps)[-forecaster.history :]
    assert value(forecaster.weights(times, times[-1] + ahead), [3.0] * len(times)) == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize("forecaster", EVERY, ids=repr)
@given(gaps=gaps)
def test_at_the_last_time_it_is_the_last_feature(forecaster, gaps):
    times = times_of(gaps)[-forecaster.history :]
    expected = [0.0] * (len(times) - 1) + [1.0]
    assert list(forecaster.weights(times, times[-1])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("order", range(5))
@given(gaps=gaps, ahead=st.floats(0.1, 4.0))
def test_newton_is_exact_on_polynomials_of_its_order_over_uneven_times(order, gaps, ahead):
    times = times_of(gaps)[-(order + 1) :]
    polynomial = [1.5, -0.7, 0.3, -0.1, 0.02][: len(times)]
    at = lambda t: sum(c * t**i for i, c in enumerate(polynomial))  # noqa: E731
    weights = Newton(order).weights(times, times[-1] + ahead)
    scale = sum(abs(w * at(t)) for w, t in zip(weights, times, strict=True)) + 1.0
    assert value(weights, [at(t) for t in times]) == pytest.approx(at(times[-1] + ahead), abs=1e-10 * scale)


def test_taylor_is_not_exact_on_a_quadratic_and_newton_is():
    """The published form takes a backward slope as the derivative."""
    times = [8.0, 9.0, 10.0]
    features = [t * t for t in times]
    assert value(Newton(2).weights(times, 11.0), features) == pytest.approx(121.0)
    assert value(Taylor(2).weights(times, 11.0), features) == pytest.approx(100.0 + 19.0 + 1.0)  # not 121


class PublishedLadder:
    """TaylorSeer as its paper states it: a table of differences, updated at each full step, expanded at the others."""

    def __init__(self, order, warmup):
        self.order, self.warmup, self.table, self.last = order, warmup, None, None

    def full(self, step, feature):
        new = [feature]
        if self.table is not None and step > self.warmup - 2:
            for previous in self.table[: self.order]:
                new.append((new[-1] - previous) / (step - self.last))
        self.table, self.last = new, step

    def forecast(self, step):
        return math.fsum(d * (step - self.last) ** i / math.factorial(i) for i, d in enumerate(self.table))


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize(("warmup", "interval"), [(1, 5), (3, 6), (2, 4), (3, 2), (5, 3), (1, 1)])
def test_taylor_is_the_published_ladder(order, warmup, interval):
    feature = lambda s: math.sin(0.31 * s) + 0.02 * s * s  # noqa: E731
    ladder, taylor = PublishedLadder(order, warmup), Taylor(order, start=warmup - 2)
    times: list[float] = []
    for step in range(50):
        if step < warmup or step - times[-1] >= interval:
            ladder.full(step, feature(step))
            times = [*times, float(step)][-taylor.history :]
        else:
            mine = value(taylor.weights(times, step), [feature(t) for t in times])
            assert mine == pytest.approx(ladder.forecast(step), rel=1e-12, abs=1e-12)


def test_the_warm_up_guard_delays_each_order_by_one_full_step():
    """E = 3: order 1 exists from step 2 on, order 2 only one full step later; without the guard at step 2."""
    times = [0.0, 1.0, 2.0]
    guarded, free = Taylor(2, start=1.0), Taylor(2)
    assert guarded.weights(times, 3.0) == [0.0, *Taylor(1).weights(times[1:], 3.0)]
    assert free.weights(times, 3.0)[0] != 0.0
    later = [1.0, 2.0, 8.0]
    assert guarded.weights(later, 9.0) == free.weights(later, 9.0) and guarded.weights(later, 9.0)[0] != 0.0


def test_ladder_takes_its_slope_from_the_last_gap():
    one_hot = [[1.0, 0.0], [0.0, 1.0]]
    assert backward_differences(one_hot, [0.0, 4.0])[1] == [-0.25, 0.25]


@pytest.mark.parametrize("make", [lambda: Taylor(-1), lambda: Taylor(1.5), lambda: Newton(9), lambda: Newton(True)])
def test_orders_are_checked(make):
    with pytest.raises(ValueError, match="order"):
        make()


def test_every_forecaster_has_a_name():
    assert set(FORECASTERS.values()) == {Hold, Taylor, Newton}
