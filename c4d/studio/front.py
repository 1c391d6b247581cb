"""Cost against closeness as a drawing: what ``c4d tune`` has measured so far, and the front of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from c4d.pipelines.tuning import PLAIN, PROFILE, Row, front

WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 720.0, 380.0, 52.0, 18.0, 16.0, 44.0
MARKS = {PROFILE: "profile", PLAIN: "plain"}  # kind -> how it is drawn; others are small
CAP = 100.0  # dB from which two clips look equal


def draw(rows: Sequence[Row], recommended: str | None = None) -> str:
    """The SVG; of no rows, what will be there."""
    if not rows:
        return '<p class="c4d-soft">The first point comes when schedules have been searched and measured.</p>'
    best = front(rows)
    high = [min(CAP, row.mean) for row in rows]
    low, top = math.floor(min(high) / 5) * 5, math.ceil(max(high) / 5) * 5
    top = max(top, low + 5)
    right = min(1.0, max(row.share for row in rows) * 1.1)

    def x(share: float) -> float:
        return LEFT + share / right * (WIDE - LEFT - RIGHT)

    def y(db: float) -> float:
        return TOP + (top - min(CAP, db)) / (top - low) * (HIGH - TOP - BOTTOM)

    parts = [_axes(x, y, low, top, right)]
    line = " ".join(f"{x(row.share):.1f},{y(row.mean):.1f}" for row in best)
    parts.append(f'<polyline class="front" points="{line}"/>')
    for row in rows:
        kind = MARKS.get(row.kind, "other")
        taken = " taken" if row.name == recommended else " best" if row in best else ""
        about = f"{row.name}: {row.share:.0%} of the work, {row.mean:.1f} dB, worst {row.worst:.1f}"
        size = 6 if kind != "other" or taken else 4
        parts.append(
            f'<circle class="{kind}{taken}" cx="{x(row.share):.1f}" cy="{y(row.mean):.1f}" r="{size}">'
            f"<title>{escape(about)}</title></circle>"
        )
    key = "".join(
        f'<span class="{name}"><i></i>{said}</span>'
        for name, said in (("profile", "the profile"), ("plain", "plain steps"), ("other", "other methods"))
    )
    return (
        f'<div class="c4d-front"><svg viewBox="0 0 {WIDE:g} {HIGH:g}" role="img" aria-label="closeness against cost">'
        f'{"".join(parts)}</svg><p class="c4d-soft c4d-key">{key}<span class="line"><i></i>the front</span></p></div>'
    )


def _axes(x: Any, y: Any, low: float, top: float, right: float) -> str:
    found = []
    every = max(5, math.ceil((top - low) / 6 / 5) * 5)
    for db in range(int(low), int(top) + 1, every):
        found.append(f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(db):.1f}" y2="{y(db):.1f}"/>')
        found.append(f'<text x="{LEFT - 8}" y="{y(db) + 4:.1f}" text-anchor="end">{db}</text>')
    for part in range(0, int(right * 100) + 1, 10):
        found.append(f'<text x="{x(part / 100):.1f}" y="{HIGH - 24}" text-anchor="middle">{part} %</text>')
    found.append(f'<text x="{(LEFT + WIDE) / 2}" y="{HIGH - 4}" text-anchor="middle">of the work computed</text>')
    found.append('<text x="4" y="12">dB</text>')
    return "".join(found)


def table(rows: Sequence[Row], recommended: str | None = None) -> str:
    """The same in numbers, the cheapest first."""
    best = front(rows)
    lines = []
    for row in sorted(rows, key=lambda row: (row.share, -row.mean)):
        mark = "take this" if row.name == recommended else "front" if row in best else ""
        cells = (row.name, f"{row.share:.0%}", f"{row.mean:.1f}", f"{row.worst:.1f}", f"{row.seconds:.2f}", mark)
        named = ' class="taken"' if row.name == recommended else ""
        lines.append(f"<tr{named}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "computed", "dB, mean", "worst", "seconds", ""))
    return f'<table class="c4d-table"><tr>{head}</tr>{"".join(lines)}</table>' if rows else ""


def row_of(told: Mapping[str, Any]) -> Row:
    """Of a line of a measurement, or of the file that ends it."""
    return Row(**{name: told[name] for name in Row.__dataclass_fields__} | {"psnr": tuple(told["psnr"])})
