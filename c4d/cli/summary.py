"""What ``c4d generate`` says on the terminal about what it made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from c4d.pipelines.why import shares

FAST = 1.5  # times as fast; from there on nobody asks why it is not more
ORDER = (
    "report.html", "video.mp4", "image.png", "uncached.mp4", "uncached.png", "fewer_steps.mp4", "fewer_steps.png",
    "sheet.png", "report.json", "manifest.jsonl",
)  # fmt: skip


def summary(record: Mapping[str, Any]) -> str:
    """One line: seconds, speed, closeness."""
    timing, fidelity = record["timing"], record["fidelity"]
    seconds = {kind: f"{value:.3g} s" for kind, value in timing["median"].items()}
    line = ", ".join(f"{seconds[kind]} {kind}" for kind in ("cached", "uncached") if kind in seconds)
    if timing["speedup"]:
        line += f": {timing['speedup']:.2f} times as fast"
    if "cached" in fidelity:
        line += f"; to the uncached clip {_close(fidelity['cached'])}"
    if "fewer_steps" in fidelity:
        line += f" ({record['fewer_steps']} plain steps: {seconds['fewer_steps']}, {_close(fidelity['fewer_steps'])})"
    return line


def _close(fidelity: Mapping[str, Any]) -> str:
    return "identical" if fidelity["identical"] else f"{fidelity['psnr_db']:.1f} dB PSNR"


def time_spent(record: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What speaks for and against the setting, and where the time went, if it was not fast."""
    yield from (f"worth it: {sentence}" for sentence in record["worth"])
    if (record["timing"]["speedup"] or 0) >= FAST:
        return  # the report has it
    yield from (f"time of the {kind} clip: {parts}" for kind, parts in shares(record))
    yield from (f"why not faster: {reason}" for reason in record["why"])
    if record["why"]:
        yield f"step by step: c4d explain {shlex.quote(str(folder))}"


def listed(folder: Path) -> str:
    return ", ".join(name for name in ORDER if (folder / name).exists())
