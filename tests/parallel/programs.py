"""The example of several ranks, on two: each gets the whole clip, and the first one writes it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.parallel.job import Case, rank
from tests.programs import FOLDER, RANKS, run


def several_ranks() -> None:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            scope: Any = run((FOLDER / RANKS).read_text(), RANKS)
            left = os.listdir(folder)
        finally:
            os.chdir(before)
    assert left == (["together.gif"] if rank() == 0 else [])
    assert len(scope["video"]) == 5 and scope["video"][0].size == (32, 32)
    assert "ulysses 2" in scope["session"].lines()[0], scope["session"].lines()


def cases(world: int) -> dict[str, Case]:
    return {f"programs {RANKS}": several_ranks} if world == 2 else {}
