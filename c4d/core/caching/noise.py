"""The time in which a model output is a slope: what it is depends on what the model predicts.

The latents of a step are x = a x0 + n e, with a part a of the data and n of the noise. There is a time tau and a scale
g of the latents, by n alone, for which d(g x)/d tau is the model's output:

    flow     a = 1 - n          tau = n         g = 1         output e - x0
    epsilon  a^2 = 1 - n^2      tau = n / a     g = 1 / a     output e
    v        a^2 = 1 - n^2      tau = asin n    g = 1         output a e - n x0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

LEAST = 1e-6  # of the data, where a schedule has none left


@dataclass(frozen=True)
class Coordinate:
    """``tau(n)`` and ``scale(n)`` of a noise level n in [0, 1]."""

    name: str
    tau: Callable[[float], float]
    scale: Callable[[float], float]


def kept(noise: float) -> float:
    """The part of the data where the squares of both parts add up to 1."""
    return math.sqrt(max(LEAST**2, 1.0 - noise * noise))


COORDINATES: Mapping[str, Coordinate] = MappingProxyType(
    {
        each.name: each
        for each in (
            Coordinate("flow", lambda n: n, lambda n: 1.0),
            Coordinate("epsilon", lambda n: n / kept(n), lambda n: 1.0 / kept(n)),
            Coordinate("v", lambda n: math.asin(min(1.0, n)), lambda n: 1.0),
        )
    }
)
