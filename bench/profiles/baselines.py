"""Two methods that choose the computed steps for a model: BudCache's schedules, and MeanCache. Written from the papers.

BudCache (arXiv 2606.13496): the blocks' residual is reused between steps that were searched for one prompt, by
simulated annealing (200 mutations) and hill climbing, for the least squared error of the final latents.

MeanCache (arXiv 2601.19961), for flow matching: the guided velocity v of a step i that is not computed, with the sample
x and the noise level s of each step, and k chosen for each gap between computed steps:

    v_i = v_{i-1} - J (s_{i+1} - s_i),    J = (v_{i-k} - (x_i - x_{i-k}) / (s_i - s_{i-k})) / (s_i - s_{i-k})

Forecasts count as past velocities; k = 1 reuses the last one. The steps and each gap's k are the path whose sum of
errors, each to the power ``PEAK``, is least; an error is how far the gap's forecasts miss the uncached next sample.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import c4d
from c4d.calibrate.reference import Reference, kept
from c4d.pipelines.peers import Peer

MUTATIONS, HOT, COLD = 200, 0.1, 1e-4
ROUNDS, NEIGHBOURS, WINDOW = 5, 20, 3
ORDERS, LONGEST = range(1, 7), 14  # k, and the longest gap that is looked at
PEAK = 4.0  # suppresses the largest errors of a path


def budcache(loss: Callable[[Sequence[int]], float], count: int, total: int, seed: int = 0) -> list[int]:
    """``count`` of ``total`` steps, the first among them; ``loss(steps)`` is the squared error of the result."""
    rnd, known = random.Random(seed), dict[tuple[int, ...], float]()

    def of(steps: Sequence[int]) -> float:
        key = tuple(steps)
        if key not in known:
            known[key] = loss(key)
        return known[key]

    here = sorted({round(i * total / count) for i in range(count)})
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


@dataclass(frozen=True)
class Written(Peer):
    """A method that is written here from its paper."""

    @property
    def version(self) -> str:
        return "from its paper"


def reusing(steps: Sequence[int]) -> str:
    """BudCache's text: the blocks' residual is reused on all other steps."""
    return f"lemica:computed={'/'.join(map(str, steps))}"


def budcache_peer(steps: Sequence[int]) -> Peer:
    """As what ``c4d compare`` takes; ``steps`` were searched."""
    return Written("BudCache", f"computed={len(steps)}", c4d.cached, {"method": reusing(steps)})


@dataclass(frozen=True)
class MeanCache:
    """``orders``: computed step -> the k of the gap after it."""

    orders: dict[int, int]

    @classmethod
    def planned(cls, reference: Reference, count: int) -> MeanCache:
        """For ``count`` computed steps, from uncached samples."""
        total, levels = reference.steps, [*reference.levels, 0.0]
        v = [torch.cat([x.flatten() for x in step]) for step in reference.track.outputs]
        x = [torch.cat([x.flatten() for x in step]) for step in reference.track.samples]
        costs = dict[tuple[int, int], tuple[float, int]]()
        for start in range(total):
            for k in ORDERS:
                made, at = list(v[: start + 1]), x[start]
                samples = x[: start + 1]
                for end in range(start + 1, min(start + LONGEST, total) + 1):
                    at = at + (levels[end] - levels[end - 1]) * made[end - 1]
                    samples = [*samples, at]
                    missed = float((at - x[end]).norm() / x[end].norm()) ** PEAK
                    costs[start, end] = min(costs.get((start, end), (math.inf, 0)), (missed, k))
                    if end < total:
                        made.append(_forecast(made, samples, levels, end, k))
        least: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
        for _ in range(count - 1):
            least = _longer(least, costs, range(1, total))
        _, path = _longer(least, costs, range(total, total + 1))[total]
        return cls({start: costs[start, end][1] for start, end in pairwise(path)})

    @contextmanager
    def at_work(self, transformer: nn.Module, scheduler: Any, levels: Sequence[float]) -> Iterator[None]:
        """Inside the block, samplings of as many steps as ``levels`` are made with it, one after another."""
        ends, v, x, last = [*levels, 0.0], list[Tensor](), list[Tensor](), list[Any]()
        forward, step = transformer.forward, scheduler.step

        def seldom(*args: Any, **kwargs: Any) -> Any:
            if len(v) % len(levels) in self.orders:
                last[:] = [forward(*args, **kwargs)]
            return last[0]  # on other steps nobody looks at it

        def stepped(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            if len(v) == len(levels):
                v.clear()
                x.clear()
            i = len(v)
            x.append(kept(sample))
            v.append(kept(output) if i in self.orders else _forecast(v, x, ends, i, self.orders[self._before(i)]))
            return step(v[-1].to(output.dtype), timestep, sample, *args, **kwargs)

        with patch.object(transformer, "forward", seldom), patch.object(scheduler, "step", stepped):
            yield

    def peer(self, levels: Sequence[float]) -> Peer:
        """As what ``c4d compare`` takes."""

        def call(pipe: Any, **_: Any) -> AbstractContextManager[None]:
            return self.at_work(pipe.transformer, pipe.scheduler, levels)

        return Written("MeanCache", f"computed={len(self.orders)}", call, {"orders": self.orders, "levels": levels})

    def _before(self, i: int) -> int:
        """The last computed step before ``i``."""
        return max(step for step in self.orders if step < i)


def _forecast(v: Sequence[Tensor], x: Sequence[Tensor], levels: Sequence[float], i: int, k: int) -> Tensor:
    """The velocity of step ``i`` from those before it, and the samples up to it."""
    start = max(0, i - k)
    if k == 1:
        return v[i - 1]
    span = levels[i] - levels[start]
    return v[i - 1] - (v[start] - (x[i] - x[start]) / span) / span * (levels[i + 1] - levels[i])


def _longer(
    least: dict[int, tuple[float, list[int]]], costs: dict[tuple[int, int], tuple[float, int]], ends: range
) -> dict[int, tuple[float, list[int]]]:
    """The best paths with one step more."""
    found = dict[int, tuple[float, list[int]]]()
    for end in ends:
        ways = [
            (cost + costs[start, end][0], [*path, end])
            for start, (cost, path) in least.items()
            if (start, end) in costs
        ]
        if ways:
            found[end] = min(ways)
    return found
