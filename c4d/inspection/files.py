"""Maps of attention as a file of arrays, and as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

WIDTH = 2.6  # inches of a drawn map
MOST_ACROSS = 6  # maps beside each other
ONTO = {"groups": "group attended to", "from_text": "group attended to", "text": "text token", "given": "image token"}
Panel = tuple[str, str, Tensor]  # title, which array it is of, and what is drawn


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
    """Every array of each map, the mean over its heads, or every head of it.

    Raises ImportError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "maps are drawn by matplotlib, which is not installed; install c4d's extra 'eval' "
            "(pip install 'c4d[eval]') or matplotlib, or use save()"
        ) from error
    panels = [panel for made in maps for panel in (_heads(made) if each_head else _means(made))]
    across = min(MOST_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH * across, WIDTH * down + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for empty in places[len(panels) :]:
        empty.axis("off")
    for at, (title, part, x) in zip(places, panels, strict=False):
        shown = at.imshow(x.numpy(), vmin=0.0, aspect="auto", interpolation="nearest")
        at.set_title(title, fontsize=7)
        at.set_xlabel(ONTO[part], fontsize=6)
        at.set_ylabel("text token" if part == "from_text" else "group", fontsize=6)
        at.locator_params(integer=True)
        at.tick_params(labelsize=6)
        figure.colorbar(shown, ax=at).ax.tick_params(labelsize=6)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(beside, dpi=110)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _means(made: Map) -> list[Panel]:
    return [(f"{made.layer}: {part}", part, x.mean(0)) for part, x in made.arrays().items()]


def _heads(made: Map) -> list[Panel]:
    found = made.arrays().items()
    return [(f"{made.layer}: {part}, head {h}", part, each) for part, x in found for h, each in enumerate(x)]
