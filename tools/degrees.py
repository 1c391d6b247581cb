"""Writes the table of docs/clusters.md, as c4d divides ranks (``python -m tools.degrees``); a test holds it to that."""

from __future__ import annotations

from pathlib import Path

from bench.marked import Marked
from c4d.parallel import Degrees, SequenceParallel

PAGE = Path(__file__).resolve().parent.parent / "docs/clusters.md"
MARKED = Marked("degrees", "python -m tools.degrees")
NODE = 8  # devices in a machine
WORLDS = (1, 2, 4, 8, 16, 32, 64)
MODELS = {  # heads, and calls of the transformer in a step
    "HunyuanVideo, FLUX.1 (24 heads, one branch)": (24, 1),
    "Wan 1.3B (12 heads, two branches)": (12, 2),
    "Wan 14B (40 heads, two branches)": (40, 2),
}


def one_request(world: int, heads: int, branches: int) -> Degrees:
    """What c4d chooses for one request on all devices."""
    return SequenceParallel().degrees(world, node=NODE, heads=heads, branches=branches)


def prompt_file(world: int, heads: int, branches: int) -> Degrees:
    """The same with a machine for each request."""
    how = SequenceParallel(data=max(1, world // NODE))
    return how.degrees(world, node=NODE, heads=heads, branches=branches)


def options(degrees: Degrees) -> str:
    """As options of the command line, those that are 1 left out."""
    return " ".join(f"--{name} {n}" for name, n in degrees._asdict().items() if n > 1)


def table() -> str:
    rows = [["devices", *MODELS], ["---:", *("---" for _ in MODELS)]]
    for divided in (one_request, prompt_file):
        worlds = [world for world in WORLDS if divided is one_request or world > NODE]
        said = "" if divided is one_request else ", a prompt file"
        for world in worlds:
            cells = [options(divided(world, *model)) for model in MODELS.values()]
            rows.append([f"{world}{said}", *(f"`{cell}`" if cell else "–" for cell in cells)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def filled(text: str) -> str:
    """The page with the table of today."""
    return MARKED.filled(text, table())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
