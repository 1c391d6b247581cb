"""The command line of a recipe: its settings as options, and which stages to run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def recipe(
    name: str,
    doc: str | None,
    settings: type[Any],
    stages: Sequence[str],
    run: Callable[[Path, Any, Sequence[str]], None],
    arguments: Sequence[str] | None,
    *,
    threads: int,
) -> None:
    """Reads ``arguments`` (None: of this process) and calls ``run(out, settings, stages)``.

    ``doc``: of the program ``tools.NAME``, whose first paragraph is the description. ``threads``: of torch, unless they
    are given. A ValueError of ``run`` ends as argparse's errors do.
    """
    parser = argparse.ArgumentParser(f"python -m tools.{name}", description=(doc or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the checkpoints and the pipeline")
    parser.add_argument("--stage", choices=("all", *stages), default="all")
    parser.add_argument("--threads", type=int, default=threads, help=f"of torch (default {threads})")
    for field in dataclasses.fields(settings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help=f"(default {field.default})")
    options = vars(parser.parse_args(arguments))
    out, stage, threads = options.pop("out"), options.pop("stage"), options.pop("threads")
    try:
        asked = settings(**options)
        if threads < 1:
            raise ValueError(f"threads={threads}; allowed are 1 and more")
        torch.set_num_threads(threads)
        run(out, asked, stages if stage == "all" else (stage,))
    except ValueError as error:
        parser.error(str(error))
