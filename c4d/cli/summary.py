"""What ``c4d generate`` says on the terminal about what it made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from c4d.pipelines import PHASES

ORDER = (
    "report.html", "video.mp4", "image.png", "uncached.mp4", "uncached.png", "fewer_steps.mp4", "fewer_steps.png",
    "sheet.png", "report.json", "manifest.jsonl",
)  # fmt: skip


def summary(record: Mapping[str, Any]) -> str:
    """One line: seconds, speed, closeness."""
    timing, fidelity = record["timing"], record["fidelity"]
    parts = [f"{timing['median'][kind]:.3g} s {kind}" for kind in ("cached", "uncached") if kind in timing["median"]]
    if timing["speedup"]:
        parts.append(f"{timing['speedup']:.2f} times as fast")
    for kind, name in (("cached", ""), ("fewer_steps", f"{record['fewer_steps']} plain steps: ")):
        if kind in fidelity:
            close = fidelity[kind]
            parts.append(name + ("identical" if close["identical"] else f"PSNR {close['psnr_db']:.1f} dB"))
    return ", ".join(parts)


def time_spent(record: Mapping[str, Any]) -> Iterator[str]:
    """A line for each kind of clip on where its time went, and one for each reason why it was not faster."""
    for kind in ("cached", "uncached"):
        if shares := record["timing"]["fractions"].get(kind):
            parts = ", ".join(f"{PHASES[name]} {share:.0%}" for name, share in shares.items() if share >= 0.005)
            yield f"time of the {kind} clip: {parts}"
    yield from (f"why not faster: {reason}" for reason in record["why"])
    yield from (f"is it worth it: {doubt}" for doubt in record["doubts"])


def listed(folder: Path) -> str:
    return ", ".join(name for name in ORDER if (folder / name).exists())
