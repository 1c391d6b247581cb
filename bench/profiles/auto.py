"""What a user gets who chooses nothing, beside as many plain steps: each yardstick, sampler and guidance.

    python -m bench.profiles.auto [--yardsticks wan-tiny …] [--samples 24]

Of 50 steps, `--cache auto` at the quality `balanced`, and what it would do for a model that has no profile of its own:
the universal profile that was made without this yardstick. Written to docs/measurements/profiles/auto.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

import c4d
from bench.profiles.__main__ import STEPS
from bench.profiles.page import close, closer
from bench.profiles.script import Options, run
from bench.yardsticks import FOLDER, HELD, SAMPLERS, Yardstick
from c4d.core.caching.profiles import QUALITIES
from c4d.metrics import psnr

GUIDANCE = {"wan-tiny": (2.0, 4.0, 6.0), "flux-tiny": (2.0, 3.5, 6.0), "glyph-dit": (2.0, 3.0, 6.0)}
COUNT = round(QUALITIES["balanced"][0] * STEPS)


def lines(name: str, samples: int) -> Iterator[str]:
    """Rows of the table."""
    prompts, seeds = HELD[name](samples)
    without = FOLDER / f"without-{name}.json"
    for sampler in filter(Yardstick(name).takes, SAMPLERS):
        yardstick = Yardstick(name)
        yardstick.use(yardstick.sampler(sampler))
        for guidance in GUIDANCE[name]:
            make = partial(yardstick.make, prompts, seeds, guidance_scale=guidance)
            reference = make(num_inference_steps=STEPS)
            plain = psnr(make(num_inference_steps=COUNT), reference).tolist()
            cells = [close(plain)]
            for method in (None, f"profile:{without},computed={COUNT}" if without.exists() else "none"):
                cells.append(_beside(yardstick, method, make, reference, plain))
            yield f"| {name} | {sampler} | {guidance:g} | {' | '.join(cells)} |"


def _beside(yardstick: Yardstick, method: str | None, make: Any, reference: Tensor, plain: list[float]) -> str:
    """How close a method (None: the one that is chosen) comes, and how much closer than plain steps."""
    if method == "none":
        return ""
    session = c4d.cached(yardstick.pipe) if method is None else c4d.cached(yardstick.pipe, method)
    with session:
        made = make(num_inference_steps=STEPS)
    if session.report().reused == 0:
        return "nothing is cached"
    ours = psnr(made, reference).tolist()
    return f"{close(ours)} ({closer(ours, plain)})"


def head(options: Options) -> str:
    return f"""# What is chosen where nobody chooses, beside plain steps of the same cost

PSNR in dB to the uncached run of {STEPS} steps, mean / worst of {options.samples} held-out samples, and how
much closer it is than {COUNT} plain steps, with the 95 % interval. `auto` is `--cache auto`, balanced;
`universal` is what another model would get, by the universal profile that was made without this one.
These are small models; no large one has been measured.

| yardstick | sampler | guidance | {COUNT} plain steps | auto | universal |
|---|---|---|---|---|---|
"""


def rows(options: Options) -> Iterator[str]:
    for name in options.yardsticks:
        yield from lines(name, options.samples)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yardsticks", nargs="+", choices=HELD, default=list(HELD))


if __name__ == "__main__":
    sys.exit(run(__doc__, "auto", head, rows, arguments))
