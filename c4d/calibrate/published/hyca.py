"""HyCa's solvers, arXiv 2510.04188: channels that move alike are one cluster, and each cluster takes its best solver.

    indicators of a channel:  log sum |F(s) - F(s-1)|  and  log sum |F(s) - 2 F(s-1) + F(s-2)|
    E(d, solver) = sum over t of e(d, solver, t) / sum_d e(d, reuse, t)
    e(d, solver, t) = sum (F_d(t) - forecast of F_d(t) by the solver from the computed steps before t)^2
    solver(cluster) = argmin of sum E(d, solver) over its channels d

F is the hidden state after the blocks in uncached samplings, and t are steps that the schedule does not compute. Other
sums are over tokens and branches of guidance, those of indicators over steps, and in the end all are over samplings.

The paper clusters by differences and curvature, with K-means, and compares solvers by their errors on a run. What it
leaves open is decided here: indicators are these two, summed over every step of a run and standardised; there are
``clusters`` of channels; errors are squared, of forecasts from uncached features, and each step counts as much as any
other (else those few decide for all in which the hidden state changes most). The solvers are chosen by all samplings
together. How alike the clusters of single ones are is in the figures, as the adjusted Rand index (Hubert and Arabie,
1985).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from c4d.calibrate.calibration import Calibration, Fitted, Record, calibration, steps_of
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.recording import Run
from c4d.core.caching.feature_forecasters import SOLVERS
from c4d.core.caching.policies import Interval, whole_number
from c4d.core.caching.selectors import means
from c4d.core.types import Action, Step

STARTS, ROUNDS = 16, 50  # of K-means
TINY = 1e-30


def motion(steps: Sequence[Tensor]) -> Tensor:
    """[2, D] fp64: of each channel the sums of |first differences| and of |second ones| of F [..., D], one a step."""
    sums = torch.zeros(2, steps[0].shape[-1], dtype=torch.float64)
    for before, now in pairwise(steps):
        sums[0] += total(now - before, 1)
    for first, before, now in zip(steps, steps[1:], steps[2:], strict=False):
        sums[1] += total(now - 2 * before + first, 1)
    return sums


def total(x: Tensor, power: int) -> Tensor:
    """[D] fp64: of each channel of [..., D] the sum of |x| ** ``power``."""
    return x.abs().pow_(power).flatten(0, -2).sum(0, dtype=torch.float64)


def indicators(sums: Tensor) -> Tensor:
    """[D, 2] of :func:`motion`: logarithms, standardised over the channels."""
    logs = sums.T.clamp_min(TINY).log()
    return (logs - logs.mean(0)) / logs.std(0, correction=0).clamp_min(1e-9)


def errors(steps: Sequence[Tensor], policy: Interval, solvers: Sequence[str]) -> Tensor:
    """[steps, solvers, D] fp64: the squared errors of each at the steps that ``policy`` does not compute.

    Those with a single computed feature before them, which all solvers reuse, are left out.
    """
    found = [torch.zeros(0, len(solvers), steps[0].shape[-1], dtype=torch.float64)]
    state, computed = policy.init(), list[int]()
    for t, now in enumerate(steps):
        action, state = policy.decide(state, Step(t, len(steps), ""), {})
        if action is Action.COMPUTE:
            computed = [step for step in computed if step >= policy.warmup - 2] + [t]
        if action is Action.COMPUTE or len(computed) < 2:
            continue
        here = []
        for solver in map(SOLVERS.__getitem__, solvers):
            past, off = computed[-solver.num_features :], -now
            for step, weight in zip(past, solver.weights(list(map(float, past)), float(t)), strict=True):
                off = off + weight * steps[step]
            here.append(total(off, 2))
        found.append(torch.stack(here)[None])
    return torch.cat(found)


def clustered(x: Tensor, count: int) -> Tensor:
    """[D] int64: of points [D, n] the cluster of each, by the best of ``STARTS`` runs of K-means, always the same."""
    seeded = torch.Generator().manual_seed(0)
    starts = torch.stack([torch.randperm(len(x), generator=seeded)[:count] for _ in range(STARTS)])
    points, centroids = x.expand(STARTS, -1, -1), x[starts]
    for _ in range(ROUNDS):
        centroids = means(points, torch.cdist(points, centroids).argmin(2), centroids)
    distances, labels = torch.cdist(points, centroids).min(2)
    return labels[distances.square().sum(1).argmin()]


def adjusted_rand(a: Tensor, b: Tensor) -> float:
    """How far two partitions [D] int64 of the same channels agree: 1 if they are the same, about 0 by chance."""
    table = torch.bincount(a * (int(b.max()) + 1) + b, minlength=(int(a.max()) + 1) * (int(b.max()) + 1)).double()
    table = table.view(int(a.max()) + 1, int(b.max()) + 1)
    both, of_a, of_b, all_ = ((n * (n - 1) / 2).sum().item() for n in (table, table.sum(1), table.sum(0), table.sum()))
    chance, most = of_a * of_b / all_ if all_ else 0.0, (of_a + of_b) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


@dataclass(frozen=True)
class HyCa(Calibration):
    policy: Interval
    clusters: int
    order: int
    features: ClassVar[bool] = True

    @property
    def kept_as(self) -> str:
        return f"{super().kept_as} {self.policy} {self.order}"

    @property
    def solvers(self) -> list[str]:
        """The candidates: Taylor series up to the order, and others of as many features."""
        return [name for name, solver in SOLVERS.items() if solver.num_features <= self.order + 1]

    def reduce(self, run: Run) -> Record:
        moved = run.summed(torch.stack([motion(h) for h in run.hidden.values()]).sum(0))
        off = run.summed(torch.stack([errors(h, self.policy, self.solvers) for h in run.hidden.values()]).sum(0))
        of_reuse = off[:, 0].sum(1)
        counts = of_reuse > 0.0  # where nothing moved, there is nothing to forecast
        shares = off[counts] / of_reuse[counts, None, None]
        return {"motion": moved.tolist(), "errors": shares.sum(0).tolist()}

    def fit(self, records: Sequence[Record]) -> Fitted:
        steps, count = steps_of(records), len(records)
        sums = torch.tensor([[*each["motion"], *each["errors"]] for each in records], dtype=torch.float64)
        if not torch.isfinite(sums).all():
            raise CalibrationError("the hidden state of these samplings has numbers that are not finite")
        if steps < 3 or not sums[:, 2:].any():
            raise CalibrationError(
                f"of the {steps} steps of these samplings none is forecast after {self.policy}, or none differs from "
                "the others: there is nothing to choose a solver by"
            )
        labels, best = self.chosen(sums.sum(0))
        groups = [(int((labels == k).sum()), self.solvers[best[labels == k][0]]) for k in labels.unique()]
        used = sorted(set(best.tolist()), key=lambda i: -int((best == i).sum()))
        data = {"solvers": [self.solvers[i] for i in used], "channels": [used.index(i) for i in best.tolist()]}
        alone = [self.chosen(each)[0] for each in sums]
        rand = [adjusted_rand(a, b) for a, b in combinations(alone, 2)]
        figures = {
            "samples": count,
            "interval": self.policy.interval,
            "warmup": self.policy.warmup,
            "clusters": [{"channels": n, "solver": name} for n, name in sorted(groups, reverse=True)],
            "rand": {"mean": sum(rand) / len(rand), "least": min(rand)} if rand else None,
            "error": self.judged(sums),
        }
        return Fitted(data, figures, self.told(data, figures))

    def chosen(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """[D] int64 each: the cluster of every channel, and the place of its solver among the candidates."""
        labels = clustered(indicators(sums[:2]), min(self.clusters, sums.shape[1]))
        of_clusters = torch.zeros(self.clusters, len(sums) - 2, dtype=torch.float64).index_add_(0, labels, sums[2:].T)
        return labels, of_clusters.argmin(1)[labels]

    def judged(self, sums: Tensor) -> dict[str, float]:
        """Root mean squared errors as parts of that of reuse: of each solver alone, and ("chosen") of those that are
        chosen by the other samplings; by itself, where there is one."""
        found = sums[:, 2:].sum((0, 2))
        others = [sums.sum(0) - each if len(sums) > 1 else each for each in sums]
        parts = [each[2:].gather(0, self.chosen(by)[1][None]).sum() for each, by in zip(sums, others, strict=True)]
        whole = {**dict(zip(self.solvers, found.tolist(), strict=True)), "chosen": float(sum(parts))}
        return {name: (x / whole["reuse"]) ** 0.5 for name, x in whole.items()}

    def told(self, data: dict[str, Any], figures: dict[str, Any]) -> list[str]:
        shares = [(data["channels"].count(i), name) for i, name in enumerate(data["solvers"])]
        lines = [f"solvers of {len(data['channels'])} channels: {', '.join(f'{name} {n}' for n, name in shares)}"]
        by = "the other samplings" if figures["samples"] > 1 else "the same sampling"
        said = ", ".join(f"{name} {x:.3f}" for name, x in figures["error"].items() if name != "chosen")
        lines.append(f"errors by that of reuse: {figures['error']['chosen']:.3f} as chosen by {by}; alone {said}")
        if figures["rand"]:
            mean, least = figures["rand"]["mean"], figures["rand"]["least"]
            lines.append(f"clusters of single samplings: adjusted Rand index {mean:.2f}, least {least:.2f}")
        return lines

    def use(self, fitted: Fitted) -> str:
        warmup = f",warmup={self.policy.warmup}" if self.policy.warmup != 1 else ""
        return f"interval={self.policy.interval}{warmup}"


@calibration("hyca")
def hyca(interval: int = 5, warmup: int = 1, clusters: int = 4, order: int = 2) -> Calibration:
    """The solver of every channel of the hidden state, the best one of its cluster.

    ``interval`` and ``warmup``: the schedule, between whose computed steps solvers are compared; ``clusters`` of
    channels that move alike; ``order``: of the highest Taylor series among the candidates. The hidden state after the
    blocks is kept on the host at every step of a sampling, in fp32.
    """
    whole_number("interval", interval, 2)
    whole_number("clusters", clusters, 1)
    whole_number("order", order, 1)
    return HyCa(Interval(interval, warmup), clusters, order)
