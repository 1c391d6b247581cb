"""What a partial step costs an MLP: ``python -m bench.partial`` -> ``docs/measurements/partial.md``.

An MLP of the model's width is run on all of its tokens, and as ToCa's partial step runs it: scores, the tokens that
they pick, the MLP of these, its output put into the cached one. Medians of interleaved rounds on one thread of the CPU,
fp32. The forecast of the cached output and the session's host time, which every reused module costs, are not in it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.stamp import stamp
from c4d.core.caching.selectors import Scored, TokenView, take
from c4d.core.types import Step

PAGE = Path(__file__).parent.parent / "docs/measurements/partial.md"
SHAPES = {  # tokens, width, width inside
    "FLUX.1, image of 352 x 352": (484, 3072, 12288),
    "Wan 2.1 1.3B, one frame of 480p": (1560, 1536, 8960),
    "a small model": (320, 96, 192),
    "a toy": (16, 32, 64),
}
RATIOS = (0.5, 0.25, 0.1, 0.04)


def partial(mlp: nn.Module, x: Tensor, cached: Tensor, ratio: float) -> Tensor:
    """What a module returns on a partial step."""
    select, step = Scored(ratio, 4), Step(1, 8, "")
    since = torch.ones(x.shape[:2])
    view = TokenView(cached, since, step, 0.5, None, None, torch.rand, lambda score: score)
    rows = select.select(view, select.count(x.shape[1], step, 0.5))
    since.scatter(1, rows, 0.0)
    return select.spread(cached, rows, mlp(take(x, rows)), None)


def measured(rounds: int, tokens: int, width: int, inside: int) -> list[float]:
    """Seconds of the whole MLP, then of a partial step at each ratio."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(width, inside), nn.GELU(approximate="tanh"), nn.Linear(inside, width))
    x, cached = torch.randn(1, tokens, width), torch.randn(1, tokens, width)
    calls: list[Callable[[], Tensor]] = [lambda: mlp(x)]
    calls += [lambda ratio=ratio: partial(mlp, x, cached, ratio) for ratio in RATIOS]  # type: ignore[misc]
    times: list[list[float]] = [[] for _ in calls]
    with torch.no_grad():
        for number in range(rounds + 1):
            for call, found in zip(calls, times, strict=True):
                start = time.perf_counter()
                call()
                if number:  # the first round warms up
                    found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.partial", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    lines = []
    for name, shape in SHAPES.items():
        tokens, width, inside = shape
        whole, *parts = measured(rounds if tokens * width > 1e5 else 40 * rounds, *shape)
        cells = " | ".join(f"{part / whole:.2f}" for part in parts)
        lines.append(f"| {name} | {tokens} | {width} x {inside} | {1e3 * whole:.3f} ms | {cells} |")
    heads = " | ".join(f"{100 * ratio:.0f} %" for ratio in RATIOS)
    page = [
        "# What a partial step costs an MLP",
        "",
        "The time of an MLP on all of its tokens, and of a partial step (scores, picking, gathering, the MLP of "
        "these tokens, putting them back) as a part of it, by the share of tokens that is computed. The forecast of "
        "the cached output and the session's host time come on top, as on every reused step.",
        "",
        f"| shapes of | tokens | MLP | all tokens | {heads} |",
        "|---|---|---|---|" + "---|" * len(RATIOS),
        *lines,
        "",
        "Where the number is near the share, fewer tokens are less time. Where it is above 1, a partial step costs "
        "more than to compute the module: matrices so small that picking tokens takes longer than multiplying them. "
        "On a GPU, where few rows do not fill the device and each operation is launched by itself, that point should "
        "lie at larger shapes; it is not measured.",
        "",
        *stamp(f"python -m bench.partial --rounds {rounds}", torch.get_num_threads()),
    ]
    PAGE.write_text("\n".join(page) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
