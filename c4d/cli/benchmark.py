"""``c4d benchmark``: the samples of a published benchmark, where its own tools look for them."""

from __future__ import annotations

import textwrap

from c4d.cli.batch import Samples
from c4d.cli.command import generate
from c4d.cli.options import BenchmarkOptions
from c4d.cli.signals import Stops
from c4d.pipelines import InputError
from c4d.pipelines.benchmarks import BENCHMARKS

HELP = "c4d benchmark --help explains them"


def listing(width: int = 100) -> str:
    """The benchmarks, what each needs and how its samples are scored."""
    lines = ["BENCHMARKS  (c4d brings neither their prompts nor their tools)"]
    for name, each in BENCHMARKS.items():
        lines.append(f"  {name}  {each.about}")
        said = f"--prompt-file: {each.file}; {each.samples} of each prompt; scored by {each.scored}"
        lines += textwrap.wrap(said, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def run(name: str | None, options: BenchmarkOptions, stops: Stops) -> None:
    """Makes what of the samples is not there yet. Raises :class:`InputError` for an unknown benchmark."""
    if name is None or name not in BENCHMARKS:
        which = "which BENCHMARK?" if name is None else f"unknown benchmark {name!r}:"
        raise InputError(f"{which} known are {', '.join(BENCHMARKS)} ({HELP})")
    generate(options, stops, Samples(options, BENCHMARKS[name]))
