"""The page about profiles: tables of what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.fidelity.statistics import paired

HEAD = """# Profiles beside everything else of the same cost

Closeness to the uncached run of 50 steps, on prompts and noise that nothing was learned from: PSNR in dB, mean / worst.
`profile` is the one that comes with c4d for this model; it was made with the model's own sampler and serves all three.
`universal` was fitted on the other yardsticks alone. `levels` are plain steps whose noise levels were searched on the
calibration prompts; `best method` is the closest of the package's other methods among those that cost no more, each
with the settings that were best on the calibration prompts. In brackets, with its 95 % interval over paired samples,
how much closer the profile is. These are small models; no large one has been measured.
"""
KINDS = ("profile", "universal", "plain", "levels", "method")


def write(rows: Mapping[str, Mapping[str, Any]], stamps: Sequence[Sequence[str]]) -> str:
    places = list(dict.fromkeys(tuple(key.split(" | ")[:2]) for key in rows))
    lines = [HEAD]
    for yardstick, sampler in places:
        here = {key.split(" | ")[2]: row for key, row in rows.items() if key.startswith(f"{yardstick} | {sampler} | ")}
        lines += [f"## {yardstick}, {sampler}", "", *table(here), ""]
    lines += ["## How it was measured", ""]
    for stamp in stamps:
        lines += [*stamp, ""]
    return "\n".join(lines).rstrip() + "\n"


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    counts = sorted({row["computed"] for row in rows.values() if row["kind"] == "plain"}, reverse=True)
    yield "| computed | profile | universal | plain | levels | best method |"
    yield "|---|---|---|---|---|---|"
    for count in counts:
        profile = _of(rows, "profile", count)
        cells = [_cell(profile)]
        cells += [_cell(_of(rows, kind, count), profile) for kind in ("universal", "plain", "levels")]
        name, best = _best(rows, count)
        cells.append(f"`{name}` {_cell(best, profile)}" if best else "")
        yield f"| {count:g} | {' | '.join(cells)} |"


def _of(rows: Mapping[str, Mapping[str, Any]], kind: str, count: float) -> Mapping[str, Any] | None:
    return next((row for row in rows.values() if row["kind"] == kind and row["computed"] == count), None)


def _best(rows: Mapping[str, Mapping[str, Any]], count: float) -> tuple[str, Mapping[str, Any] | None]:
    fitting = [(name, row) for name, row in rows.items() if row["kind"] == "method" and row["computed"] <= count + 0.51]
    return max(fitting, key=lambda each: _mean(each[1]), default=("", None))


def _mean(row: Mapping[str, Any]) -> float:
    return sum(row["psnr"]) / len(row["psnr"])


def _cell(row: Mapping[str, Any] | None, profile: Mapping[str, Any] | None = None) -> str:
    if row is None:
        return ""
    text = f"{_mean(row):.1f} / {min(row['psnr']):.1f}"
    if profile is None:
        return text
    closer = paired(profile["psnr"], row["psnr"])
    return f"{text} ({closer.mean:+.1f} [{closer.low:.1f}, {closer.high:.1f}])"
