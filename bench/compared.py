"""``c4d compare`` on the held-out prompts of a yardstick, and the tables that a page is written from."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from bench.settings import STEPS
from bench.stamp import stamp
from bench.yardsticks import HELD, SHORT
from c4d.cli.compare import run as compare
from c4d.cli.options import CompareOptions
from c4d.cli.signals import stoppable
from c4d.pipelines.output import write_text
from c4d.pipelines.peers import Peer


def arguments(about: str | None, samples: int) -> argparse.ArgumentParser:
    """The options of such a program, which measures ``samples`` prompts at most."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yardsticks", nargs="+", choices=HELD, default=list(HELD))
    parser.add_argument("--samples", type=int, default=samples, help="prompts, at most")
    parser.add_argument("--render", action="store_true", help="write the page of what was measured; measure nothing")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def compared(
    program: str,
    name: str,
    options: argparse.Namespace,
    cache: Iterable[str],
    out: Path,
    folder: Path,
    *,
    drawn: int,
    minutes: float = 0.0,
    peers: Sequence[Peer] = (),
) -> None:
    """Measures ``cache`` and ``peers`` on the first of ``drawn`` prompts of the yardstick ``name``.

    What is measured is kept in ``out``/NAME. ``folder`` gets NAME.csv, and how it was made by ``program``.
    """
    prompts, seeds = HELD[name](drawn)
    out = out / name
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "prompts.txt", "\n".join(prompts) + "\n")
    asked = CompareOptions(
        model=name,
        prompt_file=out / "prompts.txt",
        seed=seeds[0],
        steps=STEPS,
        samples=options.samples,
        cache=tuple(cache),
        minutes=minutes,
        backend="cpu",
        threads=options.threads,
        out=out,
        **SHORT.get(name, {}),
    )
    with torch.enable_grad(), stoppable() as stops:
        compare(asked, stops, peers)
    shutil.copyfile(out / "compare.csv", folder / f"{name}.csv")
    lines = stamp(shlex.join(["python", "-m", program, *sys.argv[1:]]), options.threads)
    if libraries := sorted({f"{each.library} {each.version}" for each in peers}):
        lines = [*lines, f"- Others: {', '.join(libraries)}"]
    write_text(folder / f"{name}.stamp.md", "\n".join(lines) + "\n")


def stamps(folder: Path, names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """How each of ``names`` was made, in lines."""
    return {name: (folder / f"{name}.stamp.md").read_text().splitlines() for name in names}
