"""Plain sampling at chosen noise levels: a far stronger baseline than fewer uniform steps."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.search import MOVES, Journal, Scores, score

SAME = 1e-5  # by how much noise levels from 1 to 0 may differ
PROBED = 5  # steps of a run that shows whether a scheduler keeps a noise level for each


class Chosen:
    """A scheduler whose runs have the noise levels of some steps of a longer run, while its ``with`` block lasts.

    ``steps`` are indices into a run of ``total`` steps; a sampling inside the block asks for ``len(steps)`` steps.
    """

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
            given: dict[str, Any] = {} if mu is None else {"mu": mu}
            if sigmas is not None:  # pipelines of pictures give them
                if any(abs(a - b) > SAME for a, b in zip(sigmas, _even(len(sigmas)), strict=True)):
                    raise CalibrationError("the pipeline gives its scheduler noise levels that are not evenly spaced")
                given["sigmas"] = _even(total)
            kept(scheduler, total, device=device, **given)
            scheduler.timesteps = scheduler.timesteps[self._steps]
            scheduler.sigmas = torch.cat((scheduler.sigmas[self._steps], scheduler.sigmas[-1:]))
            scheduler.num_inference_steps = len(self._steps)

        self._scheduler.__dict__["set_timesteps"] = chosen
        return self._scheduler

    def __exit__(self, *exc: object) -> None:
        del self._scheduler.__dict__["set_timesteps"]


def _even(count: int) -> list[float]:
    return torch.linspace(1.0, 1 / count, count, dtype=torch.float64).tolist()


def takes_levels(scheduler: Any) -> bool:
    """Whether it keeps one noise level for each step and one for the end, which :class:`Chosen` chooses from."""
    probe = copy.deepcopy(scheduler)
    given = {"mu": 1.0} if getattr(probe, "config", {}).get("use_dynamic_shifting") else {}
    probe.set_timesteps(PROBED, **given)
    sigmas = getattr(probe, "sigmas", None)
    return isinstance(sigmas, Tensor) and len(probe.timesteps) == PROBED and len(sigmas) == PROBED + 1


def searched(
    make: Callable[[Sequence[int]], Tensor],
    reference: Tensor,
    start: Sequence[int],
    total: int,
    seconds: float,
    journal: Journal | None = None,
) -> tuple[list[int], int]:
    """The noise levels whose plain samples come closest to ``reference``, by the moves and the score of a profile's
    search; and how many were tried.

    Args:
        make: samples at the noise levels of these steps (:class:`Chosen`), to a tensor like ``reference``,
            [samples, ...].
        start: as many steps of a run of ``total`` as are wanted, the first among them.
        journal: keeps the scores, so that an interrupted search goes on.
    """
    known = Journal() if journal is None else journal
    ends, rnd, tried = time.monotonic() + seconds, random.Random(0), set[frozenset[int]]()

    def found(steps: Sequence[int]) -> float:
        key = frozenset(steps)
        tried.add(key)
        if known.get(key) is None:
            missed = score((make(steps) - reference).double().flatten(1).pow(2).mean(1))
            known[key] = Scores(missed, missed)
        return known[key].searched

    best = sorted(start)
    found(best)
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
    return best, len(tried)
