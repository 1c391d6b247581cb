"""Schedules by dynamic programming: which steps to compute, given what it costs to leave others out."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
