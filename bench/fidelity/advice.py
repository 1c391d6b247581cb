"""The table of good settings in docs/choosing.md, written from what was measured: ``python -m bench.fidelity.advice``.

A setting stands there if it is closer to the uncached clip than plain steps of the same cost, on average over the clips
(the whole 95 % interval above 0), and its worst clip at most ``WORST`` dB further away than theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bench.fidelity.table import FOLDER, Beside, Entry, against, of, read
from bench.marked import Marked
from bench.stamp import ROOT

PAGE, MODEL = ROOT / "docs/choosing.md", "wan-tiny"
SHOWN = ("README.md", "docs/python.md", "docs/command_line.md", "docs/methods.md")  # pages whose settings are judged
MARKED = Marked("measured settings", "python -m bench.fidelity.advice")
WORST, ROWS = 4.0, 2  # rows for each band of cost
BANDS = (15, 20, 30)  # plain steps of the same cost, at most


def shown() -> tuple[dict[str, bool], list[str]]:
    """The settings that pages list, each with whether it has a star, and those that their examples take."""
    text = "\n".join((ROOT / page).read_text() for page in SHOWN)
    listed = {given: bool(star) for given, star in re.findall(r"^\| `([\w-]+:[^`]+)`( \*)? \|", text, re.MULTILINE)}
    taken = re.findall(r"--cache ([\w-]+:[^\s`]+) --prompt", text) + re.findall(r'"([\w-]+:[\w-]+=[^"]+)"', text)
    return listed, [each for each in dict.fromkeys(taken) if not each.startswith("profile:")]


def compared(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Beside]]:
    """Every setting of c4d that needs no file, beside plain steps."""
    for each in of(entries, "c4d"):
        if "path=" not in each.name and (beside := against(each, entries)) is not None:
            yield each, beside


def good(entries: Sequence[Entry]) -> list[tuple[Entry, Beside]]:
    """The closest in each band of cost, cheapest first."""
    found = [
        (each, beside)
        for each, beside in compared(entries)
        if beside.verdict == "better"
        and min(each.psnr) >= min(beside.plain.psnr) - WORST
        and "computed=" not in each.name  # a long list is nothing to type
    ]
    rows = []
    for below, most in zip((0, *BANDS), BANDS, strict=False):
        band = sorted((row for row in found if below < row[1].plain.steps <= most), key=lambda row: -row[0].close)
        rows += sorted(band[:ROWS], key=lambda row: row[1].plain.steps)
    return rows


def table(entries: Sequence[Entry]) -> str:
    lines = [
        "| `--cache` | computed | PSNR, mean / worst clip | above plain steps of the same cost | their worst |",
        "|---|---|---|---|---|",
    ]
    for each, (plain, d) in good(entries):
        psnr = f"{each.close:.1f} / {min(each.psnr):.1f} dB"
        above = f"{plain.steps} steps: {d.mean:+.1f} dB ({d.low:+.1f} to {d.high:+.1f})"
        lines.append(f"| `{each.name}` | {each.share:.0%} | {psnr} | {above} | {min(plain.psnr):.1f} dB |")
    return "\n".join(lines) + "\n"


def filled(page: str, entries: Sequence[Entry]) -> str:
    """``page`` with the table."""
    return MARKED.filled(page, table(entries))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), read(FOLDER / f"{MODEL}.csv")))
