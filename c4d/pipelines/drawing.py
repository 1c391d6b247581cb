"""The drawing of an explained run: coordinates of a narrow, self-contained SVG (templates/explain.svg has the looks).

It is 420 units wide, so that its text can be read where it is shown 400 pixels wide, and on any wider screen.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from c4d.pipelines.explain import DID, Explained, Passed, Row, called
from c4d.pipelines.report import BRANCHES, template

DRAWING = "explain.svg"
WIDE, LEFT, RIGHT = 420.0, 50.0, 8.0
BARS, STRIP, CURVE = 40.0, 14.0, 64.0  # heights
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MOST_TICKS = 10
MOST_OVER = 2.0  # thresholds; what is above stands at the upper edge
LINE, LETTERS, BOLD = 14.0, 64, 56  # of a paragraph: height of a line, and letters in it


def draw(explained: Explained) -> str:
    """The SVG as text."""
    cell = (WIDE - LEFT - RIGHT) / explained.steps
    slowest = max((each.seconds or 0.0 for row in explained.rows for each in row.forwards), default=0.0)
    y = 8.0
    head = _paragraph(re.sub(r",(?=\S)", ", ", explained.headline()), y, BOLD)  # a long method breaks at its commas
    y += LINE * len(head) + 8
    panels = []
    branches: dict[str, list[Row]] = {}
    for row in explained.rows:
        branches.setdefault(row.branch, []).append(row)
    for branch, rows in branches.items():
        panel = _panel(explained, branch, rows, y, cell, slowest)
        panels.append(panel)
        y = panel["end"] + 14
    legend = _legend(explained, slowest > 0, y)
    y = legend[-1]["y"] + LINE + 6
    remarks = []
    sentences = [f"{about}: {sentence}" for about, sentence in explained.remarks]
    for sentence in [*sentences, *([f"note: {explained.lacks}"] if explained.lacks else [])]:
        part = _paragraph(sentence, y)
        remarks += part
        y += LINE * len(part) + 4
    return template(DRAWING).render(
        e=explained, head=head, panels=panels, legend=legend, remarks=remarks, wide=WIDE, high=y + 6, left=LEFT,
        right=WIDE - RIGHT, strip=STRIP,
    )  # fmt: skip


def _panel(
    explained: Explained, branch: str, rows: Sequence[Row], y: float, cell: float, slowest: float
) -> dict[str, Any]:
    """Of one branch: bars of seconds, cells of steps, the curve of values, ticks; from ``y`` down to ``end``."""
    forwards = [each for row in rows for each in row.forwards]
    panel: dict[str, Any] = {
        "branch": called(branch),
        "about": BRANCHES.get(branch, ""),
        "y": y + 11,
        "bars": [],
        "curve": None,
    }
    y += 18
    if slowest > 0:
        panel["slowest"], panel["bars_y"] = f"{1000 * slowest:.3g} ms", y
        for each in forwards:
            high = BARS * (each.seconds or 0.0) / slowest
            panel["bars"].append(
                {
                    **_placed(each, cell),
                    "y": y + BARS - high,
                    "high": high,
                    "said": f"{1000 * (each.seconds or 0):.3g} ms",
                }
            )
        y += BARS + 2
    panel["cells_y"] = y
    panel["cells"] = [{**_placed(each, cell), "said": _said(each, explained)} for each in forwards]
    panel["experts"] = [_x(row.forwards[0].step, cell) for row in rows[1:]]
    y += STRIP
    if explained.threshold is not None:
        panel["curve"] = _curve(rows, explained.threshold, y + 6, cell)
        y += CURVE + 10
    every = next(n for n in TICKS if explained.steps / n <= MOST_TICKS or n == TICKS[-1])
    noise = {each.step: each.noise for each in forwards if each.noise is not None}
    panel["ticks_y"], panel["has_noise"] = y + 11, bool(noise)
    panel["ticks"] = [
        {"x": _x(step, cell) + cell / 2, "step": step, "noise": f"{noise[step]:.2f}" if step in noise else ""}
        for step in range(0, explained.steps, every)
    ]
    panel["end"] = y + (24 if noise else 13)
    return panel


def _curve(rows: Sequence[Row], threshold: float, y: float, cell: float) -> dict[str, Any]:
    """Points of the values, and lines from one computed step to the next; ``y`` is where the plot begins."""
    values = [
        each.value for row in rows for each in row.forwards if each.value is not None and math.isfinite(each.value)
    ]
    top = threshold * min(MOST_OVER, max(1.15, max(values, default=0.0) / threshold))

    def down(value: float) -> float:
        part = 1.0 if math.isnan(value) else min(1.0, max(0.0, value / top))
        return y + CURVE * (1.0 - part)

    points, lines, stretch = [], list[str](), list[str]()
    for row in rows:
        for each in row.forwards:
            if each.value is None:
                stretch = _ended(stretch, lines)
                continue
            x, height = _x(each.step, cell) + cell / 2, down(each.value)
            points.append({"x": x, "y": height, "did": each.did, "beyond": not each.value <= top})
            stretch.append(f"{x:.1f},{height:.1f}")
            if each.did != "r":
                stretch = _ended(stretch, lines)
        stretch = _ended(stretch, lines)
    return {
        "y": y, "end": y + CURVE, "threshold_y": down(threshold), "threshold": f"{threshold:.3g}", "points": points,
        "lines": lines, "size": max(0.8, min(2.2, cell / 3)),
    }  # fmt: skip


def _ended(stretch: Sequence[str], lines: list[str]) -> list[str]:
    """Draws the line of a stretch of values, and begins another."""
    if len(stretch) > 1:
        lines.append(" ".join(stretch))
    return []


def _legend(explained: Explained, timed: bool, y: float) -> list[dict[str, Any]]:
    every = {each.did for row in explained.rows for each in row.forwards}
    about = {**DID, "r": f"reused: {explained.reused}"}
    named: Mapping[str, str] = {letter: about[letter] for letter in DID if letter in every}
    if explained.what is not None:
        named = {**named, "value": f"{explained.what}; dashed: the threshold"}
    if timed:
        named = {**named, "bars": "height of a bar: seconds of the forward"}
    if explained.experts:
        named = {**named, "expert": "here the second network takes over"}
    lines = []
    for letter, said in named.items():
        for i, part in enumerate(textwrap.wrap(said, LETTERS - 4)):
            lines.append({"y": y, "did": letter if i == 0 else "", "said": part})
            y += LINE
    return lines


def _paragraph(sentence: str, y: float, letters: int = LETTERS) -> list[dict[str, Any]]:
    lines = textwrap.wrap(sentence, letters, break_on_hyphens=False)
    return [{"y": y + LINE * (i + 0.8), "said": part} for i, part in enumerate(lines)]


def _placed(each: Passed, cell: float) -> dict[str, Any]:
    gap = min(1.0, cell / 6)
    return {"x": _x(each.step, cell) + gap / 2, "wide": cell - gap, "did": each.did}


def _x(step: int, cell: float) -> float:
    return LEFT + step * cell


def _said(each: Passed, explained: Explained) -> str:
    """The tooltip of a step."""
    parts = [f"step {each.step}: {DID[each.did].partition(':')[0]}"]
    parts += [f"noise level {each.noise:.3f}"] if each.noise is not None else []
    parts += [f"{each.value:.3g} of {explained.threshold:g}"] if each.value is not None else []
    parts += [f"{1000 * each.seconds:.3g} ms"] if each.seconds is not None else []
    return ", ".join(parts)
