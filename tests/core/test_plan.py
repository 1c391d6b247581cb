"""Planners against every schedule there is."""

from __future__ import annotations

import math
import random
from itertools import combinations, pairwise

import pytest

from c4d.core.caching.step_search import annealed, least_of_gaps, least_sum, least_worst

T = 8


def costs(seed):
    """C[i][j][k] = sum of the errors of the steps between j and k, as a profile holds them."""
    draw = random.Random(seed)
    errors = [[[draw.random() for _ in range(T)] for _ in range(T)] for _ in range(T)]
    return [[[sum(errors[i][j][j + 1 : k]) for k in range(T + 1)] for j in range(T)] for i in range(T)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", range(3, T + 1))
def test_least_sum_is_the_cheapest_of_all(seed, budget):
    table = costs(seed)

    def cost(path):
        ends = [*path, T]
        return sum(table[ends[n - 2]][ends[n - 1]][ends[n]] for n in range(2, len(ends)))

    every = [(0, 1, *rest) for rest in combinations(range(2, T), budget - 2)]
    found = least_sum(table, budget)
    assert tuple(found) in every and cost(found) == pytest.approx(min(map(cost, every)))


def test_one_predecessor_a_step_is_not_enough():
    """Two ways to the same step with the same number of computed ones: what comes after depends on which it was."""
    assert any(least_sum(costs(seed), 4) != greedy(costs(seed), 4) for seed in range(20))


def greedy(table, budget):
    """The authors' planner: the cheapest path to each step, whatever its last gap."""
    best = {1: (0.0, [0, 1])}
    for _ in range(budget - 2):
        longer = {}
        for j, (cost, path) in best.items():
            for k in range(j + 1, T):
                found = (cost + table[path[-2]][j][k], [*path, k])
                longer[k] = min(longer.get(k, found), found)
        best = longer
    return min((cost + table[path[-2]][path[-1]][T], path) for cost, path in best.values())[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", range(2, T + 1))
def test_least_worst_is_the_least_of_all_sorted_errors(seed, budget):
    draw = random.Random(seed)
    errors = [[draw.randint(0, 5) for _ in range(T)] for _ in range(T)]  # many equal ones

    def worst(path):
        return sorted((errors[i][j] for i, j in pairwise(path)), reverse=True)

    every = [(0, *rest, T - 1) for rest in combinations(range(1, T - 1), budget - 2)]
    assert worst(least_worst(errors, budget)) == min(map(worst, every))


@pytest.mark.parametrize("budget", [1, T + 1])
def test_budgets_that_cannot_be(budget):
    with pytest.raises(ValueError, match=f"2 to {T} computed steps here, not {budget}"):
        least_worst([[0.0] * T] * T, budget)


# -- BudCache


def test_annealing_finds_the_steps_that_cost_least():
    wanted = {0, 1, 2, 4, 9, 15}
    tried = []

    def loss(steps):
        assert len(steps) == 6 and steps[0] == 0 and sorted(set(steps)) == list(steps)
        tried.append(tuple(steps))
        return sum(min(abs(step - other) for other in steps) for step in wanted) / 10

    assert set(annealed(loss, 6, 20)) == wanted
    assert len(tried) == len(set(tried)) < 320
    with pytest.raises(ValueError, match="a search has 2 to 19 of 20 steps to compute, not 20"):
        annealed(loss, 20, 20)


# -- MeanCache


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", range(1, T + 1))
def test_least_of_gaps_is_the_cheapest_of_all(seed, budget):
    rnd = random.Random(seed)
    costs = {(i, j): rnd.random() for i in range(T) for j in range(i + 1, T + 1) if j - i <= 5}
    sets = [[0, *more] for more in combinations(range(1, T), budget - 1)]
    whole = [[costs.get(gap, math.inf) for gap in pairwise([*steps, T])] for steps in sets]
    if all(math.inf in each for each in whole):
        with pytest.raises(ValueError, match=f"no {budget} of {T} steps leave gaps"):
            least_of_gaps(costs, budget, T)
        return
    assert least_of_gaps(costs, budget, T) == sets[min(range(len(sets)), key=lambda i: sum(whole[i]))]
