"""Forecasters are mathematics: constants, polynomials, the published ladder, each to fp64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c4d.core.caching.feature_forecasters import evenly_spaced
from c4d.core.caching.finite_differences import Hermite, Taylor, backward_differences
from c4d.core.caching.forecasters import (
    BDF,
    AdamsBashforth,
    Chebyshev,
    FoCa,
    LinearExtrapolation,
    MeanVelocity,
    Newton,
    Reuse,
)
from c4d.core.types import Predicted, Step

SMOOTH = [
    Taylor(2, smoothing="exponential", alpha=0.7),
    Taylor(3, smoothing="moving-average"),
    Hermite(2, smoothing="exponential", alpha=0.4),
]
LINEAR = [
    *(Reuse(), *(Taylor(k) for k in range(5)), *(Newton(k) for k in range(5)), Hermite(1), FoCa(), *SMOOTH[:2]),
    *(AdamsBashforth(), BDF()),
]
LAGGING = [
    LinearExtrapolation(0.5),
    Taylor(1, smoothing="moving-average", anchor="smoothed"),
    Hermite(2),
    Hermite(3, scale=0.71),
    SMOOTH[2],
]
gaps = st.lists(st.floats(0.25, 8.0), min_size=1, max_size=5)


def times_of(gaps):
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    return times


def value(weights, features):
    return math.fsum(w * f for w, f in zip(weights, features, strict=True))


@pytest.mark.parametrize("forecaster", LINEAR + LAGGING, ids=repr)
@given(gaps=gaps, ahead=st.floats(0.0, 6.0))
def test_constants_are_reproduced(forecaster, gaps, ahead):
    times = times_of(gaps)[-forecaster.num_features :]
    assert value(forecaster.weights(times, times[-1] + ahead), [3.0] * len(times)) == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize("forecaster", LINEAR, ids=repr)
@given(gaps=gaps)
def test_at_the_last_time_it_is_the_last_feature(forecaster, gaps):
    times = times_of(gaps)[-forecaster.num_features :]
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


def test_rules_of_two_steps_are_what_their_definitions_say():
    """Of the last slopes f and f', over uneven steps too; of two features both are the line through them."""
    for (c, b, a), x in (((0.0, 4.0, 8.0), 1.0), ((0.0, 4.0, 8.0), 4.0), ((0.0, 1.0, 5.0), 2.0)):
        F = [2.0, -1.0, 3.5]
        f, before, r = (F[2] - F[1]) / (a - b), (F[1] - F[0]) / (b - c), x / (a - b)
        implicit = ((1 + r) ** 2 * F[2] - r**2 * F[1] + x * (1 + r) * (f + r * (f - before))) / (1 + 2 * r)
        for rule, wanted in ((AdamsBashforth(), F[2] + x * (1.5 * f - 0.5 * before)), (BDF(), implicit)):
            assert value(rule.weights([c, b, a], a + x), F) == pytest.approx(wanted, abs=1e-12)
            assert value(rule.weights([b, a], a + x), F[1:]) == pytest.approx(F[2] + x * f, abs=1e-12)
            assert rule.weights([a], a + x) == [1.0]


def test_ladder_takes_its_slope_from_the_last_gap():
    one_hot = [[1.0, 0.0], [0.0, 1.0]]
    assert backward_differences(one_hot, [0.0, 4.0])[1] == [-0.25, 0.25]


def test_each_rung_of_the_ladder_is_over_the_newest_gap():
    slope, bend = [0.0, -1.0, 1.0], [0.25, -1.25, 1.0]  # the slope less that of the four steps before
    one_hot = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert backward_differences(one_hot, [0.0, 4.0, 5.0])[1:] == [slope, bend]


@pytest.mark.parametrize(
    ("times", "even"), [((7.0,), 1), ((0.0, 2.0), 2), ((0.0, 2.0, 3.0, 4.0), 3), ((0.0, 1.0, 2.0, 4.0), 2)]
)
def test_times_are_evenly_spaced_as_far_as_their_gaps_are_the_last(times, even):
    assert evenly_spaced(times) == even


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("computed", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 6, 8, 11, 15, 20], [3], [0, 7]])
def test_spectrum_is_the_published_ridge_regression(computed, weight):
    """As least squares of one row more for each polynomial, by cosines; blended with the line of the last two."""
    total, t, lam = 50, computed[-1] + 3, 0.1
    features = torch.randn(len(computed), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def row(s):
        angle = math.acos(2 * s / total - 1)
        return [math.cos(m * angle) for m in range(5)]

    rows = torch.tensor([row(s) for s in computed], dtype=torch.float64)
    rows = torch.cat((rows, math.sqrt(lam) * torch.eye(5, dtype=torch.float64)))
    known = torch.cat((features, torch.zeros(5, 6, dtype=torch.float64)))
    wanted = torch.tensor(row(t), dtype=torch.float64) @ torch.linalg.lstsq(rows, known).solution
    line = features[-1]
    if len(computed) > 1:
        line = line + 3 / (computed[-1] - computed[-2]) * (features[-1] - features[-2])
    wanted = weight * wanted + (1 - weight) * line
    runs = [Step(0, steps, "cond") for steps in (total, 9)]
    for forecaster in (Chebyshev(weight=weight).of_run(runs[0]), Chebyshev(weight=weight, steps=total).of_run(runs[1])):
        weights = torch.tensor(forecaster.weights(list(map(float, computed)), float(t)), dtype=torch.float64)
        torch.testing.assert_close(weights @ features, wanted)


@pytest.mark.parametrize("k", range(1, 7))
def test_mean_velocity_under_even_steps_is_a_damped_slope(k):
    """(k - 1) / 2k of it: a quarter for 2, 5/12 for 6."""
    levels, line = tuple(1.0 - i / 20 for i in range(20)), [3.0 + 0.5 * i for i in range(8)]
    ahead = MeanVelocity(((7, k),)).of_run(Step(8, 20, "cond", levels=levels))
    found = value(ahead.weights([float(i) for i in range(8)], 8.0), line)
    assert found == pytest.approx(line[-1] + 0.5 * (k - 1) / (2 * k))


def test_mean_velocity_takes_what_there_is():
    """Of a branch that began late, or whose last step is missing, fewer velocities; the last step has an end of 0."""
    ahead = MeanVelocity(((0, 6), (4, 6)), tuple(1.0 - i / 10 for i in range(10)))
    assert ahead.weights([0.0], 1.0) == [1.0] and ahead.weights([4.0], 6.0) == [1.0]
    assert ahead.weights([4.0, Predicted(5.0)], 6.0) == pytest.approx([-0.25, 1.25])
    levels = (1.0, 0.5, 0.5, 0.25)  # Heun's method has a level twice
    assert MeanVelocity(((0, 2),), levels).weights([0.0, Predicted(1.0)], 2.0)[1] == pytest.approx(1.0)
    assert MeanVelocity(((1, 2),), levels).weights([1.0, Predicted(2.0)], 3.0) == pytest.approx([-1.0, 2.0])


def test_spectrum_s_ridge_takes_a_part_of_a_constant():
    """That is the published fit: a reused feature that does not change is a little less, the less the smaller it is."""
    of_five = [sum(Chebyshev(ridge=ridge, steps=50).weights([0, 1, 2, 3, 4], 5)) for ridge in (0.1, 1e-3, 1e-9)]
    assert of_five[0] == pytest.approx(0.9387, abs=1e-4) and of_five == sorted(of_five)
    assert of_five[2] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("make", [lambda: Taylor(-1), lambda: Taylor(1.5), lambda: Newton(9), lambda: Newton(True)])
def test_orders_are_checked(make):
    with pytest.raises(ValueError, match="order"):
        make()


def physicists(n, x):
    """H_n(x) = (-1)^n e^(x^2) d^n/dx^n e^(-x^2), as a sum."""
    terms = range(n // 2 + 1)
    return math.factorial(n) * math.fsum(
        (-1) ** m * (2 * x) ** (n - 2 * m) / (math.factorial(m) * math.factorial(n - 2 * m)) for m in terms
    )


@pytest.mark.parametrize("scale", [0.5, 0.71])
@pytest.mark.parametrize("order", range(5))
def test_hermite_is_the_published_expansion(order, scale):
    """F + sum_i D_i / i! * s^i H_i(s x) over the ladder of TaylorSeer (arXiv 2508.16984)."""
    times = [4.0 * i for i in range(order + 1)]
    features = [math.sin(t) for t in times]
    one_hot = [[float(i == j) for j in range(len(times))] for i in range(len(times))]
    ladder = [value(d, features) for d in backward_differences(one_hot, times)]
    for x in (1.0, 2.0, 5.0):
        expected = ladder[0] + math.fsum(
            d / math.factorial(i) * scale**i * physicists(i, scale * x) for i, d in enumerate(ladder) if i
        )
        mine = value(Hermite(order, scale=scale).weights(times, times[-1] + x), features)
        assert mine == pytest.approx(expected, rel=1e-12)


def test_hermite_at_one_over_root_two_has_taylor_s_slope_and_at_a_half_half_of_it():
    times = [0.0, 5.0]
    assert Hermite(1, scale=0.5**0.5).weights(times, 8.0) == pytest.approx(Taylor(1).weights(times, 8.0))
    assert Hermite(1, scale=0.5).weights(times, 8.0) == pytest.approx([-0.3, 1.3])


def test_moving_average_is_half_a_gap_behind_and_the_exact_anchor_is_not():
    """On a line with slope b and gaps h: D_0 = F_0 - h b / 2, where all is smoothed."""
    times, line = [0.0, 4.0, 8.0], [0.0, 4.0, 8.0]
    behind = Taylor(1, smoothing="moving-average", anchor="smoothed")
    assert value(behind.weights(times, 8.0), line) == pytest.approx(6.0)
    assert value(Taylor(2, smoothing="moving-average").weights(times, 10.0), line) == pytest.approx(10.25)


def test_the_exact_anchor_smooths_the_second_difference_alone():
    """D_2 = ((S_2 - S_1)/h - (S_1 - S_0)/h)/h of S_0 = F_0, S_i = a F_i + (1 - a) S_{i-1}; D_0, D_1 are those of F."""
    times, f, a, h, x = [0.0, 3.0, 6.0], [1.0, -2.0, 4.0], 0.7, 3.0, 2.0
    s = [f[0], a * f[1] + (1 - a) * f[0]]
    s.append(a * f[2] + (1 - a) * s[1])
    expected = f[2] + x * (f[2] - f[1]) / h + x * x / 2 * ((s[2] - s[1]) / h - (s[1] - s[0]) / h) / h
    assert value(Taylor(2, smoothing="exponential", alpha=a).weights(times, 8.0), f) == pytest.approx(expected)


class PublishedFoCa:
    """FoCa as it is stated: Heun's rule anchored at the last full step, its forecasts rolling on (arXiv 2508.16211)."""

    def __init__(self):
        self.full, self.values = [], []

    def compute(self, step, feature):
        self.full.append((step, feature))
        self.values.append((step, feature))

    def forecast(self, step):
        (t, f), (before, g) = self.full[-1], self.full[-2]
        (last, new), (early, old) = self.values[-1], self.values[-2]
        slopes = (f - g) / (t - before) + (new - old) / (last - early)
        x = step - t
        found = f + min(x, 3.0) / 2 * slopes
        if x > 3.0:
            found = 3.0 / x * found + (1.0 - 3.0 / x) * f
        self.values.append((step, found))
        return found


@pytest.mark.parametrize(("warmup", "interval"), [(2, 2), (3, 5), (2, 8)])
def test_foca_is_the_published_recursion(warmup, interval):
    from tests.core.test_history import ring_of

    feature = lambda s: math.sin(0.31 * s) + 0.02 * s * s  # noqa: E731
    published, foca = PublishedFoCa(), FoCa()
    ring = ring_of(foca.num_features, foca.num_forecasts)
    last = 0
    for step in range(40):
        if step < warmup or step - last >= interval:
            last = step
            published.compute(step, feature(step))
            ring.push(float(step), [torch.tensor(feature(step), dtype=torch.float64)])
            continue
        mine = value(foca.weights(ring.times, float(step)), [x.item() for x in ring.features(0)])
        assert mine == pytest.approx(published.forecast(step), rel=1e-12)
        ring.push(Predicted(step), [torch.tensor(mine, dtype=torch.float64)])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Taylor(2, smoothing="cubic"), "unknown smoothing 'cubic'"),
        (lambda: Taylor(2, smoothing="exponential"), "alpha belong together"),
        (lambda: Taylor(2, alpha=0.5), "alpha belong together"),
        (lambda: Taylor(2, smoothing="exponential", alpha=0.0), "alpha must be above 0"),
        (lambda: Taylor(1, smoothing="moving-average"), "acts on differences from the second on"),
        (lambda: Taylor(2, anchor="smoothed"), "needs a smoothing"),
        (lambda: Taylor(2, over="time"), "unknown over='time'"),
        (lambda: Hermite(1, scale=1.0), "scale must be between 0 and 1"),
    ],
)
def test_nonsense_is_refused(make, what):
    with pytest.raises(ValueError, match=what):
        make()
