"""Profiles of learned methods for the bundled model: what DPCache plans with, and L2P's weights.

    python -m bench.learn {dpcache,l2p} PROFILE.json [--clips 4] [--steps 50] [--computed 0/1/2/5/…] [--features 3]

Clips whose seeds no measurement uses are generated uncached; the hidden state after the blocks is kept at every step.
dpcache: how far TaylorSeer of order 1 is off at every step t from every two computed ones i < j, mean |forecast - h_t|
over branches and clips, and the sums of that between j and k (arXiv 2602.22654). l2p: for a schedule, the weights of
the last features that leave the least squared error at every step between (arXiv 2604.26365; there by gradient descent,
here solved, which is where that ends). The profile is read by ``dpcache:path=…`` and ``l2p:path=…``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import c4d
from bench.clips import GUIDANCE, LENGTH, paired, pipeline
from c4d.bundled import generate
from c4d.models import spec_for

Features = dict[str, list[Tensor]]  # branch -> a tensor a step
UNMEASURED = 200_000  # seeds from here on


def recorded(pipe: Any, run: Callable[[], Any]) -> Features:
    """Branch -> the hidden state after the blocks at every step of ``run``, on the host."""
    found: Features = {}
    door = pipe.transformer.get_submodule(spec_for(pipe.transformer).exit)

    def keep(module: Any, args: tuple[Tensor, ...]) -> None:
        found.setdefault(session.current.step.branch, []).append(args[0].detach().float().cpu())

    with c4d.cached(pipe, "fora:interval=1") as session:
        handle = door.register_forward_pre_hook(keep)
        try:
            run()
        finally:
            handle.remove()
    return found


def of_clips(pipe: Any, clips: int, steps: int) -> Features:
    return recorded(pipe, lambda: unmeasured(pipe, steps, clips))


def unmeasured(pipe: Any, steps: int, clips: int = 1) -> Any:
    attributes, seeds = paired(clips)
    seeds = [seed + UNMEASURED for seed in seeds]
    setting = {"steps": steps, "guidance_scale": GUIDANCE, "max_sequence_length": LENGTH}
    return generate(pipe, attributes, seeds, **setting)


def costs(features: Features) -> list[list[list[float]]]:
    """C[i][j][k], i < j < k <= T; zero elsewhere. To four digits."""
    total = len(next(iter(features.values())))
    table = [[[0.0] * (total + 1) for _ in range(total)] for _ in range(total)]
    stacks = [torch.stack(steps).flatten(1) for steps in features.values()]
    for i, j in combinations(range(total), 2):
        ahead = torch.arange(1, total - j)[:, None]
        errors = sum((h[j] + (h[j] - h[i]) / (j - i) * ahead - h[j + 1 :]).abs().mean(1) for h in stacks)
        sums = torch.cumsum(errors, 0) if len(ahead) else torch.zeros(0)
        for k, cost in enumerate(sums.tolist(), j + 2):
            table[i][j][k] = float(f"{cost:.4g}")
    return table


def weights(features: Features, computed: Sequence[int], count: int, ridge: float = 1e-8) -> dict[str, list[float]]:
    """Step -> the weights of the last ``count`` computed features, fitted over all branches and clips together."""
    grams = [(h := torch.stack(steps).flatten(1).double()) @ h.T for steps in features.values()]
    gram, table = torch.stack(grams).sum(0), {}
    for t in range(len(gram)):
        if t in computed:
            continue
        past = [step for step in computed if step < t][-count:]
        square = gram[past][:, past]
        square = square + ridge * square.diagonal().mean() * torch.eye(len(past), dtype=torch.float64)
        table[str(t)] = torch.linalg.solve(square, gram[past, t]).tolist()
    return table


def profile(kind: str, features: Features, computed: Sequence[int] = (), count: int = 3) -> dict[str, Any]:
    head = {"kind": kind, "steps": len(next(iter(features.values())))}
    if kind == "dpcache":
        return {**head, "costs": costs(features)}
    return {**head, "computed": list(computed), "weights": weights(features, computed, count)}


class Learned:
    """Profiles of what ``record()`` gives; each is made when it is asked for, and kept in ``folder``."""

    def __init__(self, record: Callable[[], Features], folder: Path) -> None:
        self._record, self._folder = cache(record), folder

    def path(self, kind: str, computed: tuple[int, ...]) -> Path:
        path = self._folder / f"{kind}{''.join(f'-{step}' for step in computed)}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(profile(kind, self._record(), computed)))
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("dpcache", "l2p"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--clips", type=int, default=4, help="how many clips to learn from")
    parser.add_argument("--steps", type=int, default=50, help="of each clip; the profile is for this number alone")
    parser.add_argument(
        "--computed", help="l2p: the computed steps, separated by /; default: every fourth and the last"
    )
    parser.add_argument("--features", type=int, default=3, help="l2p: of how many computed steps a forecast is made")
    options = parser.parse_args()
    even = [*range(0, options.steps - 1, 4), options.steps - 1]
    computed = even if options.computed is None else [int(step) for step in options.computed.split("/")]
    if computed != sorted({0, *computed}) or computed[-1] >= options.steps:
        parser.error(
            f"--computed {options.computed}: steps from 0, which is among them, to {options.steps - 1}, rising"
        )
    if not options.path.parent.is_dir():
        parser.error(f"{options.path.parent} is no folder")
    with torch.no_grad():
        features = of_clips(pipeline(), options.clips, options.steps)
    found = profile(options.kind, features, computed, options.features)
    options.path.write_text(json.dumps(found))
    print(f"{options.path}: {options.kind} for {found['steps']} steps")


if __name__ == "__main__":
    main()
