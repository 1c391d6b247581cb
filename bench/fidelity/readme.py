"""The table of good settings in README, written from what was measured: ``python -m bench.fidelity.readme``.

A setting stands there if it is closer to the uncached clip than fewer plain steps of the same cost, on average over the
clips (the whole 95 % interval above 0), and its worst clip at most ``WORST`` dB further away than theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bench.fidelity import cases
from bench.fidelity.page import Comparison, against
from bench.fidelity.results import Measured, Results
from bench.stamp import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- measured settings: python -m bench.fidelity.readme -->\n", "<!-- end of measured settings -->\n"
SAMPLER, WORST, ROWS = "unipc", 4.0, 2  # the sampler of the bundled model; rows for each band of cost
BANDS = (15, 20, 30)  # plain steps of the same cost, at most


def compared(results: Results) -> Iterator[tuple[str, Measured, Comparison]]:
    """(text, measured, beside plain steps) of every setting of c4d that needs no file."""
    steps, plain = results.setting["steps"], results.of(SAMPLER, "plain")
    texts = {(method, setting): text for method, setting, text in cases.rows_of(steps, lambda kind, _: Path(kind))}
    for case in results.of(SAMPLER, "c4d"):
        text = texts.get((case.method, case.setting), "path=")
        if "path=" not in text:
            yield text, case, against(case, plain)


def good(results: Results) -> list[tuple[str, Measured, str]]:
    """(text, measured, how it compares) of the closest in each band of cost, cheapest first."""
    found = []
    for text, case, beside in compared(results):
        worse = min(case.psnr) < min(beside.plain.psnr) - WORST
        if "schedule:" in text or beside.verdict != "better" or worse:
            continue  # a long list is nothing to type
        low, high = beside.psnr.low, beside.psnr.high
        above = f"{beside.plain.steps} steps: {beside.psnr.mean:+.1f} dB ({low:+.1f} to {high:+.1f})"
        above += f" | {min(beside.plain.psnr):.1f} dB"
        found.append((beside.plain.steps, case.quality, text, case, above))
    rows = []
    for below, most in zip((0, *BANDS), BANDS, strict=False):
        band = sorted((each for each in found if below < each[0] <= most), key=lambda each: -each[1])
        rows += sorted(band[:ROWS], key=lambda each: each[0])
    return [(text, case, above) for _, _, text, case, above in rows]


def table(results: Results) -> str:
    whole = results.of(SAMPLER, "uncached")[0].cost
    lines = [
        "| `--cache` | blocks computed | PSNR, mean / worst clip | above plain steps of as many blocks | their worst |",
        "|---|---|---|---|---|",
    ]
    for text, case, above in good(results):
        psnr = f"{case.quality:.1f} / {min(case.psnr):.1f} dB"
        lines.append(f"| `{text}` | {case.cost / whole:.0%} | {psnr} | {above} |")
    return "\n".join(lines) + "\n"


def filled(readme: str, results: Results) -> str:
    """``readme`` with the table between its two marks."""
    pattern = re.escape(BEGIN) + r".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + table(results) + END, readme, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(), Results.load(ROOT / "docs/measurements/fidelity/results.json")))
