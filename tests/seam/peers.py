"""The same denoising loop in c4d and in another implementation, over the same tiny transformer."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor, nn

import c4d
from c4d.core.caching.rules import CacheMethod
from tests.tiny import CASES, Case


class Sides(NamedTuple):
    """``apart``: the largest relative L2 difference over the steps; ``effect``: that of c4d to the uncached run.

    ``reused`` passes and ``modules`` are c4d's, ``theirs`` passes in which the last block that may be skipped did not
    run.
    """

    apart: float
    effect: float
    reused: int
    theirs: int
    modules: int


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


def inside(model: nn.Module, tail: int = 0) -> nn.Module:
    """A module of the last block, or of that before the last ``tail``, which runs once when the block does."""
    named = ((re.match(r"(single_)?(transformer_)?blocks\.\d+\.", name), m) for name, m in model.named_modules())
    return list({found[0]: m for found, m in named if found and isinstance(m, nn.Linear)}.values())[-1 - tail]


@functools.cache
def uncached(case: str, steps: int, guided: bool = True) -> list[Tensor]:
    return CASES[case].loop(CASES[case].build(), steps, guided=guided)


def sides(
    case: Case,
    method: str | CacheMethod,
    open_: Callable[[Any], AbstractContextManager[Callable[[], None]]],
    steps: int,
    guided: bool = True,
    tail: int = 0,
) -> Sides:
    """``method`` in c4d and the context ``open_(model)`` of the other, each on a model of its own."""
    model, ran = case.build(), []
    with c4d.cached(model, method) as session:
        ours = case.loop(model, steps, lambda ts: session.begin(ts, [t / 1000.0 for t in ts]), guided)
    model = case.build()
    inside(model, tail).register_forward_hook(lambda *_: ran.append(1))
    with open_(model) as begin:
        begin()
        theirs = case.loop(model, steps, guided=guided)
    report, passes = session.report(), steps * (1 + guided)
    effect = apart(ours, uncached(case.name, steps, guided))
    return Sides(apart(ours, theirs), effect, report.reused, passes - len(ran), report.modules_reused)


def same(found: Sides, limit: float = 1e-6) -> None:
    """Equal to rounding, by the same decisions, and not because nothing was reused."""
    assert found.apart <= limit, found
    assert found.reused == found.theirs or found.modules > 0, found
    assert found.reused > 0 and found.effect > 100 * limit, found
