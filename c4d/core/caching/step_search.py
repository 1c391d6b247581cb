"""Schedules by dynamic programming: which steps to compute, given what it costs to leave others out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

MUTATIONS, HOT, COLD = 200, 0.1, 1e-4
ROUNDS, NEIGHBOURS, WINDOW = 5, 20, 3


def least_sum(costs: Sequence[Sequence[Sequence[float]]], budget: int, first: int = 2) -> list[int]:
    """The ``budget`` computed steps whose path costs least in all (DPCache, arXiv 2602.22654).

    ``costs[i][j][k]`` is what it costs to forecast the steps between j and k from the computed ones i < j; k = T stands
    for the end. The leading ``first`` steps are computed. Exact: the state is the last two computed steps, since costs
    depend on both (the authors' planner keeps the last alone). Ties go to the earlier steps. Raises ValueError for a
    budget that leaves no path.
    """
    total = len(costs)
    if not 2 <= first <= budget <= total:
        raise ValueError(f"no {budget} of {total} steps have the leading {first} (at least 2) among them")
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(first - 2, first - 1): (0.0, list(range(first)))}
    for _ in range(budget - first):
        longer: dict[tuple[int, int], tuple[float, list[int]]] = {}
        for (i, j), (cost, path) in best.items():
            for k in range(j + 1, total):
                found = (cost + costs[i][j][k], [*path, k])
                if (j, k) not in longer or found < longer[j, k]:
                    longer[j, k] = found
        best = longer
    ends = [(cost + costs[i][j][total], path) for (i, j), (cost, path) in best.items()]
    cost, path = min(ends, default=(math.inf, []))
    if not math.isfinite(cost):
        raise ValueError(f"no schedule of {budget} among {total} steps has a finite cost")
    return path


def least_worst(errors: Sequence[Sequence[float]], budget: int) -> list[int]:
    """The ``budget`` computed steps, first and last among them, whose worst gap hurts least (LeMiCa, arXiv 2511.00090).

    ``errors[i][j]`` is what becomes of the result if the steps between i and j reuse i's. Paths are compared by their
    worst error, then by their second worst, and so on. That order does not change when the same gap is added to two
    paths, so that the best path to each step is part of the best one. Raises ValueError for a budget that leaves none.
    """
    total = len(errors)
    if not 2 <= budget <= total:
        raise ValueError(f"a schedule has 2 to {total} computed steps here, not {budget}")
    best: dict[int, tuple[list[float], list[int]]] = {0: ([], [0])}
    for _ in range(budget - 1):
        longer: dict[int, tuple[list[float], list[int]]] = {}
        for i, (worst, path) in best.items():
            for j in range(i + 1, total):
                found = (sorted([*worst, errors[i][j]], reverse=True), [*path, j])
                if j not in longer or found < longer[j]:
                    longer[j] = found
        best = longer
    return best[total - 1][1]


def least_of_gaps(costs: Mapping[tuple[int, int], float], budget: int, total: int) -> list[int]:
    """The ``budget`` of ``total`` computed steps, the first among them, whose gaps cost least in all (MeanCache).

    ``costs[i, j]`` is what the steps between the computed ones i and j cost; j = ``total`` stands for the end, and a
    gap that is missing cannot be. Raises ValueError if no steps are left.
    """
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for count in range(budget):
        ends = range(1, total) if count < budget - 1 else range(total, total + 1)
        longer: dict[int, tuple[float, list[int]]] = {}
        for i, (cost, path) in best.items():
            for j in ends:
                if (i, j) in costs and (j not in longer or cost + costs[i, j] < longer[j][0]):
                    longer[j] = cost + costs[i, j], [*path, j]
        best = longer
    if total not in best:
        raise ValueError(f"no {budget} of {total} steps leave gaps that have a cost")
    return best[total][1][:-1]


def evenly(budget: int, total: int) -> list[int]:
    """``budget`` of ``total`` steps from the first on, with gaps that differ by at most one; a search begins there.

    Raises ValueError for a budget that leaves nothing to search.
    """
    if not 2 <= budget < total:
        raise ValueError(f"a search has 2 to {total - 1} of {total} steps to compute, not {budget}")
    return sorted({round(i * total / budget) for i in range(budget)})


def annealed(loss: Callable[[Sequence[int]], float], budget: int, total: int, seed: int = 0) -> list[int]:
    """``budget`` of ``total`` steps, the first among them, searched for the least ``loss``.

    BudCache, arXiv 2606.13496. From even steps on it exchanges one at random, 200 times, and takes a worse set the less
    likely the colder it gets; then it climbs, in up to 5 rounds of 20 sets with one step moved by at most 3. No set is
    tried twice. Raises ValueError for a budget that leaves nothing to search.
    """
    here = evenly(budget, total)
    rnd, known = random.Random(seed), dict[tuple[int, ...], float]()

    def of(steps: Sequence[int]) -> float:
        key = tuple(steps)
        if key not in known:
            known[key] = loss(key)
        return known[key]

    best = here
    for turn in range(MUTATIONS):
        heat = HOT * (COLD / HOT) ** (turn / (MUTATIONS - 1))
        there = sorted({*here} - {rnd.choice(here[1:])} | {rnd.choice([k for k in range(1, total) if k not in here])})
        if of(there) < of(here) or rnd.random() < math.exp((of(here) - of(there)) / heat):
            here = there
        best = min(best, here, key=of)
    for _ in range(ROUNDS):
        near = [
            sorted({*best} - {step} | {step + by})
            for step in best[1:]
            for by in range(-WINDOW, WINDOW + 1)
            if 0 < step + by < total and step + by not in best
        ]
        found = min(rnd.sample(near, min(NEIGHBOURS, len(near))), key=of)
        if of(found) >= of(best):
            break
        best = found
    return best
