"""Schedules to begin a search with: of smooth shapes, and planned from the reference alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor

from c4d.calibrate.reference import Reference
from c4d.core.caching.step_search import least_sum

CHUNK = 1 << 22  # numbers of a sample that are made fp64 at once
FINE = 4001  # points of a run at which gaps are summed


class Shape(NamedTuple):
    """How the gaps between computed steps change over a run: they rise to their longest and fall again.

    A gap at the part u of the run is r + (1 - r) u^rise (1 - u)^fall / m of the longest, where m is the greatest value
    of that product, and r is ``first`` before it and ``last`` after it.
    """

    first: float
    last: float
    rise: float
    fall: float

    def gap(self, u: Tensor) -> Tensor:
        peak = self.rise / (self.rise + self.fall)
        bump = u**self.rise * (1 - u) ** self.fall / (peak**self.rise * (1 - peak) ** self.fall)
        least = torch.where(u < peak, self.first, self.last)
        return least + (1 - least) * bump

    def steps(self, count: int, total: int) -> frozenset[int]:
        """``count`` of ``total`` steps with such gaps between them, and half a one after the last."""
        u = torch.linspace(0, 1, FINE, dtype=torch.float64)
        passed = torch.cumulative_trapezoid(1 / self.gap(u), u)
        passed, found = torch.cat([passed.new_zeros(1), passed / passed[-1]]), list[int]()
        for k in range(count):
            at = int(torch.searchsorted(passed, k / (count - 0.5)))
            step = round(float(u[at]) * total)
            found.append(next(s for s in sorted(range(total), key=lambda s: abs(s - step)) if s not in found))
        return frozenset(found)


# Those that the universal profile is chosen from; and those that suited the bundled models, to begin a search with.
SHAPES = tuple(Shape(*each) for each in product((0.25, 0.33), (0.12, 0.2), (1.0, 1.4, 1.8), (0.6, 0.9)))
BEGIN = (Shape(0.33, 0.2, 1.8, 0.9), Shape(0.25, 0.12, 1.0, 0.6), Shape(0.33, 0.12, 1.4, 0.6))


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
