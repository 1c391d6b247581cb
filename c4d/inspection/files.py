"""Maps of attention as a file of arrays, and as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

WIDTH = 2.6  # inches of a drawn map
MOST_ACROSS = 6  # heads beside each other


class Map(Protocol):
    @property
    def layer(self) -> str: ...
    @property
    def steps(self) -> tuple[int, ...]: ...
    def arrays(self) -> dict[str, Tensor]: ...


def write(path: Path, maps: Mapping[str, Map]) -> None:
    """An ``.npz`` of the arrays of each, ``NAME/PART``, and of its steps; whole or not at all."""
    import numpy as np

    found: dict[str, Any] = {}
    for name, made in maps.items():
        found[f"{name}/steps"] = np.array(made.steps)
        found |= {f"{name}/{part}": x.numpy() for part, x in made.arrays().items()}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            np.savez_compressed(file, **found)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def draw(path: Path, maps: Iterable[Map], *, each_head: bool) -> None:
    """A row for each map and a column for each of its arrays, heads averaged; or every head of each array.

    Raises ImportError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "maps are drawn by matplotlib, which is not installed; install c4d's extra 'eval' (pip install 'c4d[eval]') "
            "or matplotlib, or use save()"
        ) from error
    rows = [row for made in maps for row in (_heads(made) if each_head else [_means(made)])]
    across = max(map(len, rows))
    figure = Figure(figsize=(WIDTH * across, WIDTH * len(rows) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), across, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for at in axes[len(row) :]:
            at.axis("off")
        for at, (title, x) in zip(axes, row, strict=False):
            shown = at.imshow(x.numpy(), vmin=0.0, aspect="auto", interpolation="nearest")
            at.set_title(title, fontsize=7)
            at.tick_params(labelsize=6)
            figure.colorbar(shown, ax=at).ax.tick_params(labelsize=6)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(beside, dpi=110)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _means(made: Map) -> list[tuple[str, Tensor]]:
    return [(f"{made.layer}\n{part}", x.mean(0)) for part, x in made.arrays().items()]


def _heads(made: Map) -> Sequence[list[tuple[str, Tensor]]]:
    """Rows of at most so many heads, of one array after the other."""
    found = []
    for part, x in made.arrays().items():
        heads = [(f"{made.layer}\n{part}, head {h}", each) for h, each in enumerate(x)]
        found += [heads[i * MOST_ACROSS : (i + 1) * MOST_ACROSS] for i in range(math.ceil(len(heads) / MOST_ACROSS))]
    return found
