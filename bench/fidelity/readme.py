"""The table of good settings in README, written from what was measured: ``python -m bench.fidelity.readme``.

A setting stands there if it is closer to the uncached clip than fewer plain steps of the same cost, on average over the
clips (the whole 95 % interval above 0), and its worst clip no further away than theirs by more than ``WORST`` dB.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.fidelity import cases
from bench.fidelity.page import against
from bench.fidelity.results import Measured, Results
from bench.stamp import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- measured settings: python -m bench.fidelity.readme -->\n", "<!-- end of measured settings -->\n"
SAMPLER, WORST, ROWS = "unipc", 0.0, 3  # the sampler of the bundled model; rows for each band of cost
BANDS = (15, 20, 30)  # plain steps of the same cost, at most


def good(results: Results) -> list[tuple[str, Measured, str]]:
    """(text, measured, how it compares) of the closest in each band of cost, cheapest first."""
    steps = results.setting["steps"]
    texts = {(method, setting): text for method, setting, text in cases.rows_of(steps, lambda kind, _: Path(kind))}
    plain, found = results.of(SAMPLER, "plain"), []
    for case in results.of(SAMPLER, "c4d"):
        text = texts.get((case.method, case.setting), "path=")
        compared = against(case, plain)
        worse = min(case.psnr) < min(compared.plain.psnr) - WORST
        if "path=" in text or "schedule:" in text or compared.verdict != "better" or worse:
            continue  # a file or a long list is nothing to type
        low, high = compared.psnr.low, compared.psnr.high
        above = f"{compared.plain.steps} steps: {compared.psnr.mean:+.1f} dB ({low:+.1f} to {high:+.1f})"
        found.append((compared.plain.steps, case.quality, text, case, above))
    rows = []
    for below, most in zip((0, *BANDS), BANDS, strict=False):
        band = sorted((each for each in found if below < each[0] <= most), key=lambda each: -each[1])
        rows += sorted(band[:ROWS], key=lambda each: each[0])
    return [(text, case, above) for _, _, text, case, above in rows]


def table(results: Results) -> str:
    whole = results.of(SAMPLER, "uncached")[0].cost
    lines = [
        "| `--cache` | blocks computed | PSNR, mean / worst clip | above plain sampling of the same cost |",
        "|---|---|---|---|",
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
