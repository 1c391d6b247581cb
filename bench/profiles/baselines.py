"""The steps that BudCache and MeanCache choose for a model, which the methods ``budcache`` and ``meancache`` follow.

BudCache (arXiv 2606.13496) searches them for one prompt (``c4d.core.caching.step_search.annealed``). MeanCache (arXiv
2601.19961) takes the path whose sum of errors, each to the power ``PEAK``, is least, with a k for each gap; an error is
how far the gap's forecasts miss the uncached next sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

import c4d
from c4d.calibrate.reference import Reference
from c4d.core.caching.forecasters import MeanVelocity
from c4d.core.caching.step_search import least_of_gaps
from c4d.core.types import Predicted
from c4d.pipelines.peers import Peer

ORDERS, LONGEST = range(1, 7), 14  # k, and the longest gap that is looked at
PEAK = 4.0  # suppresses the largest errors of a path


@dataclass(frozen=True)
class Written(Peer):
    """A method that is written here from its paper."""

    @property
    def version(self) -> str:
        return "from its paper"


def budcache(steps: Sequence[int]) -> str:
    """The text of the method with these steps."""
    return f"budcache:computed={_listed(steps)}"


def meancache(orders: Mapping[int, int]) -> str:
    """That of MeanCache; ``orders``: computed step -> the k of the gap after it."""
    steps = sorted(orders)
    return f"meancache:computed={_listed(steps)},orders={_listed([orders[step] for step in steps])}"


def peer(name: str, text: str, computed: int) -> Peer:
    """As what ``c4d compare`` takes."""
    return Written(name, f"computed={computed}", c4d.cached, {"method": text})


def planned(reference: Reference, count: int) -> dict[int, int]:
    """MeanCache's steps and orders for ``count`` computed ones, from uncached samples."""
    total = reference.steps
    v = [torch.cat([x.flatten() for x in step]) for step in reference.track.outputs]
    x = [torch.cat([x.flatten() for x in step]) for step in reference.track.samples]
    missed, orders = dict[tuple[int, int], float](), dict[tuple[int, int], int]()
    for start in range(total):
        for k in ORDERS:
            for end, error in enumerate(_errors(reference.levels, v, x, start, k), start + 1):
                if error < missed.get((start, end), math.inf):
                    missed[start, end], orders[start, end] = error, k
    path = least_of_gaps(missed, count, total)
    return {start: orders[start, end] for start, end in pairwise([*path, total])}


def _errors(levels: Sequence[float], v: Sequence[Tensor], x: Sequence[Tensor], start: int, k: int) -> list[float]:
    """By what the samples after ``start`` are missed if the outputs from there on are forecast, one after another."""
    s, ahead = [*levels, 0.0], MeanVelocity(((start, k),), tuple(levels))
    made, times, at, errors = list(v[: start + 1]), [float(i) for i in range(start + 1)], x[start], list[float]()
    for end in range(start + 1, min(start + LONGEST, len(v)) + 1):
        at = at + (s[end] - s[end - 1]) * made[-1]
        errors.append(float((at - x[end]).norm() / x[end].norm()) ** PEAK)
        weights = ahead.weights(times, end) if end < len(v) else []
        made.append(torch.stack([w * each for w, each in zip(weights, made, strict=False) if w] or [at]).sum(0))
        times.append(Predicted(end))
    return errors


def _listed(numbers: Sequence[int]) -> str:
    return "/".join(map(str, numbers))
