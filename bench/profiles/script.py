"""What the commands have in common that write one page of one table."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable

import torch

from bench.stamp import stamp
from bench.yardsticks import FOLDER

Options = argparse.Namespace


def run(
    doc: str,
    name: str,
    head: Callable[[Options], str],
    rows: Callable[[Options], Iterable[str]],
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> int:
    """``head`` and ``rows`` make docs/measurements/profiles/NAME.md; its stamp says ``python -m bench.profiles.NAME``.

    ``arguments`` adds to ``--samples`` and ``--threads``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    lines = [head(options).rstrip()]
    for row in rows(options):
        lines.append(row)
        print(row, flush=True)
    lines += ["", *stamp(shlex.join(["python", "-m", f"bench.profiles.{name}", *sys.argv[1:]]), options.threads)]
    path = FOLDER / f"{name}.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"written: {path}")
    return 0
