"""Plain sampling at chosen noise levels: a far stronger baseline than fewer uniform steps, and so one that is shown."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from c4d.calibrate.search import MOVES, score


class Chosen:
    """A scheduler whose runs have the noise levels of some steps of a longer run, while its ``with`` block lasts."""

    def __init__(self, scheduler: Any, steps: Sequence[int], total: int) -> None:
        self._scheduler, self._steps, self._total = scheduler, sorted(steps), total

    def __enter__(self) -> Any:
        kept = type(self._scheduler).set_timesteps

        def chosen(
            num_inference_steps: int | None = None,
            device: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
            timesteps: Any = None,
        ) -> None:
            scheduler, total = self._scheduler, self._total
            if sigmas is None:
                kept(scheduler, total, device=device)
            else:  # pipelines of pictures give them, evenly spaced
                kept(scheduler, total, device=device, sigmas=np.linspace(1.0, 1 / total, total).tolist())
            scheduler.timesteps = scheduler.timesteps[self._steps]
            scheduler.sigmas = torch.cat((scheduler.sigmas[self._steps], scheduler.sigmas[-1:]))
            scheduler.num_inference_steps = len(self._steps)

        self._scheduler.__dict__["set_timesteps"] = chosen
        return self._scheduler

    def __exit__(self, *exc: object) -> None:
        del self._scheduler.__dict__["set_timesteps"]


def searched(
    make: Any, reference: Tensor, scheduler: Any, start: Sequence[int], total: int, seconds: float
) -> tuple[list[int], int]:
    """The noise levels whose plain samples come closest to ``reference``, by the moves and the score of a profile's
    search; and how many were tried. ``make()`` samples with ``scheduler`` as it is."""
    known: dict[tuple[int, ...], float] = {}
    ends, rnd = time.monotonic() + seconds, random.Random(0)

    def found(steps: Sequence[int]) -> float:
        key = tuple(sorted(steps))
        if key not in known:
            with Chosen(scheduler, key, total):
                made = make()
            known[key] = score((made - reference).double().flatten(1).pow(2).mean(1))
        return known[key]

    best = sorted(start)
    uniform = sorted({round(i * total / len(best)) for i in range(len(best))})
    best = min([best, uniform] if len(uniform) == len(best) else [best], key=found)
    moved = True
    while moved and time.monotonic() < ends:
        moved = False
        for place in rnd.sample(range(1, len(best)), len(best) - 1):
            for by in MOVES:
                steps = sorted({*best[:place], *best[place + 1 :], best[place] + by})
                if time.monotonic() > ends or len(steps) < len(best) or steps[-1] >= total or steps[0] != 0:
                    continue
                if found(steps) < found(best) - 1e-3:
                    best, moved = steps, True
                    break
    return best, len(known)
