"""What ``c4d plan`` predicts beside figures that others have published: ``python -m bench.planned``.

One figure of each row, that of one device, tells how many TFLOP/s it reached; the others are predicted. Nothing is
measured here. The figures are from xDiT's ``docs/performance/hunyuanvideo.md``, and from cache-dit's
``docs/benchmark/HYBRID_CACHE.md`` and its notes on context parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from c4d.core.example import Size
from c4d.core.text.grammar import parse
from c4d.models import spec_for
from c4d.parallel import Degrees, SequenceParallel
from c4d.plan.model import planned
from c4d.plan.run import Setup
from c4d.plan.table import Planner, Row, Speeds, fewest_heads

ONE = Degrees(1, 1)
VIDEO = ("HunyuanVideoTransformer3DModel", Size(720, 1280, 129, dtype=torch.bfloat16), 50)
IMAGE = ("FluxTransformer2DModel", Size(1024, 1024, dtype=torch.bfloat16), 28)


@dataclass(frozen=True)
class Published:
    """Seconds by division, of a model; ``bandwidth`` in GB/s is assumed, no source says it."""

    what: str
    source: str
    model: tuple[str, Size, int]
    bandwidth: float
    seconds: dict[Degrees, float]


FIGURES = (
    Published(
        "HunyuanVideo 1280x720, 129 frames, 50 steps, H100",
        "xDiT",
        VIDEO,
        200,
        {ONE: 1904.08, Degrees(2, 1): 925.04, Degrees(4, 1): 514.08, Degrees(8, 1): 337.58},
    ),
    Published(
        "the same, H20",
        "xDiT",
        VIDEO,
        200,
        {ONE: 6639.17, Degrees(2, 1): 3400.55, Degrees(4, 1): 1762.86, Degrees(8, 1): 940.97},
    ),
    Published(
        "FLUX.1-dev, 28 steps, L20 (1024x1024 is assumed)",
        "cache-dit",
        IMAGE,
        20,
        {ONE: 24.85, Degrees(2, 1): 13.80, Degrees(4, 1): 8.28, Degrees(2, 2): 8.55, Degrees(1, 4): 9.16},
    ),
)
TFLOPS = {None: 3726.87, "taylorseer:interval=4,order=2": 1042.27}  # FLUX.1-dev, 50 steps: cache-dit, HYBRID_CACHE.md


def planner(model: tuple[str, Size, int], method: str | None = None) -> Planner:
    name, size, steps = model
    transformer = planned(name, size.dtype).transformer
    spec = spec_for(transformer)
    setup = Setup(transformer, spec, spec.request(transformer, size), method and parse(method), steps)
    return Planner(setup, fewest_heads(setup))


def row(found: Planner, degrees: Degrees, speeds: Speeds | None) -> Row:
    (only,) = found.rows(degrees.world, SequenceParallel(degrees.ulysses, degrees.ring, 1), speeds)
    return only


def main() -> None:
    print("| figure | divided | published, s | predicted, s | off |\n|---|---|---|---|---|")
    for each in FIGURES:
        found = planner(each.model)
        tflops = row(found, ONE, None).flops * each.model[2] / each.seconds[ONE] / 1e12
        speeds = Speeds(tflops, each.bandwidth, each.bandwidth)
        for degrees, seconds in each.seconds.items():
            if degrees == ONE:
                told = f"fits {tflops:.0f} TFLOP/s"
                print(f"| {each.what}; {each.source} | {degrees} | {seconds} | {told} | |")
                continue
            made = row(found, degrees, speeds).seconds
            assert made is not None
            print(f"| | {degrees} | {seconds} | {made[0]:.2f} | {made[0] / seconds - 1:+.0%} |")
    print("\n| FLUX.1-dev 1024x1024, 50 steps | published, TFLOP | planned, TFLOP | off |\n|---|---|---|---|")
    for method, wanted in TFLOPS.items():
        flops = row(planner((*IMAGE[:2], 50), method), ONE, None).flops * 50 / 1e12
        print(f"| {method or 'uncached'} | {wanted} | {flops:.2f} | {flops / wanted - 1:+.1%} |")


if __name__ == "__main__":
    main()
