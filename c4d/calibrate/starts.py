"""Schedules to begin a search with, from the reference alone or from other profiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from c4d.calibrate.reference import Reference
from c4d.core.caching.step_search import least_sum

CHUNK = 1 << 22  # numbers of a sample that are made fp64 at once


def gram(reference: Reference) -> Tensor:
    """[steps, steps] fp64 inner products of the uncached outputs, over all samples."""
    found = torch.zeros(reference.steps, reference.steps, dtype=torch.float64)
    for k in range(len(reference.track.outputs[0])):
        rows = [step[k].flatten() for step in reference.track.outputs]
        for start in range(0, len(rows[0]), CHUNK):
            part = torch.stack([row[start : start + CHUNK] for row in rows]).double()
            found += part @ part.T
    return found


def costs(reference: Reference) -> list[list[list[float]]]:
    """What it costs to leave the steps between j and k out after computing i < j, for :func:`least_sum`.

    The error of the best line through the outputs at i and j, times how far the noise level moves in the step. It is
    that of the uncached samples, so a rough one, but it needs no further forward.
    """
    g, steps = gram(reference), reference.steps
    tau = [reference.coordinate.tau(level) for level in reference.levels]
    move = torch.tensor([abs(a - b) for a, b in zip(tau, [*tau[1:], 0.0], strict=True)], dtype=torch.float64)
    table = [[[0.0] * (steps + 1) for _ in range(steps)] for _ in range(steps)]
    for i, j in combinations(range(steps), 2):
        square = g[[i, j]][:, [i, j]]
        square = square + 1e-6 * square.diagonal().mean() * torch.eye(2, dtype=torch.float64)
        right = g[[i, j]][:, j + 1 :]
        w = torch.linalg.solve(square, right)
        errors = (g.diagonal()[j + 1 :] - (w * right).sum(0)).clamp_min(0).sqrt() * move[j + 1 :]
        for k, cost in enumerate(torch.cumsum(errors, 0).tolist(), j + 2):
            table[i][j][k] = cost
    return table


def planned(reference: Reference, counts: Sequence[int]) -> dict[int, frozenset[int]]:
    """Of each number of computed steps the schedule that :func:`costs` calls best."""
    table, found = costs(reference), dict[int, frozenset[int]]()
    for count in counts:
        if 2 <= count <= reference.steps:
            found[count] = frozenset(least_sum(table, count)) | reference.forced
    return found
