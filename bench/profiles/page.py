"""The page about profiles: tables of what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from c4d.metrics.paired import paired

HEAD = """# Profiles beside everything else of the same cost

Closeness to the uncached run of 50 steps, on prompts and noise that nothing was learned from: PSNR in dB, mean / worst.
`profile` is the one that comes with c4d for this model and sampler, or was made with the model's own sampler.
`universal` was fitted on the other yardsticks alone. `levels` are plain steps whose noise levels were searched on the
calibration prompts; `best method` is the closest of the package's other methods among those that cost no more, each
with the settings that were best on the calibration prompts. BudCache and MeanCache choose their steps on calibration
prompts (bench/profiles/baselines.py). The peers are cache-dit and diffusers with the settings of `c4d compare --peers`
and of bench/others.py, tuned and chosen in the same way, their cost as a part of the FLOPs. In brackets, with its 95 %
interval over paired samples, how much closer the profile is. These are small models; no large one has been measured.
"""
BEST = ("method", "peer")  # of which the closest is shown
TITLES = {"method": "best method", "budcache": "BudCache", "meancache": "MeanCache", "peer": "best peer"}
COLUMNS = ("universal", "plain", "levels", "method", "budcache", "meancache", "peer")


def write(rows: Mapping[str, Mapping[str, Any]], stamps: Sequence[Sequence[str]]) -> str:
    places = list(dict.fromkeys(tuple(key.split(" | ")[:2]) for key in rows))
    lines = [HEAD]
    for yardstick, sampler in places:
        here = {key.split(" | ")[2]: row for key, row in rows.items() if key.startswith(f"{yardstick} | {sampler} | ")}
        lines += [f"## {yardstick}, {sampler}", "", *table(here), ""]
        if any(row["kind"] == "between" for row in here.values()):
            lines += ["Numbers of steps that the profile was searched for with fewer trials:", "", *between(here), ""]
    lines += ["## How it was measured", "", *_runs(stamps)]
    return "\n".join(lines).rstrip() + "\n"


def _runs(stamps: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line for each run that rows are from, and the machines and versions that they had."""
    told = [dict(line.removeprefix("- ").split(": ", 1) for line in stamp) for stamp in stamps]
    for each in told:
        commit, _, more = each["Commit"].partition(", ")
        yield f"- {each['Date']}, {each['Command']}, commit {commit[:7]}{f' ({more})' if more else ''}"
    yield ""
    for name in ("Machine", "Versions"):
        for value in dict.fromkeys(each[name] for each in told):
            yield f"- {name}: {value}"


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A row for each number of computed steps; only columns of what was measured."""
    counts = sorted({row["computed"] for row in rows.values() if row["kind"] == "plain"}, reverse=True)
    columns = [column for column in COLUMNS if any(_found(rows, column, count) for count in counts)]
    yield f"| computed | profile | {' | '.join(TITLES.get(column, column) for column in columns)} |"
    yield f"|---|---|{'---|' * len(columns)}"
    for count in counts:
        profile = _of(rows, "profile", count)
        cells = [_cell(profile), *(_beside(rows, column, count, profile) for column in columns)]
        yield f"| {count:g} | {' | '.join(cells)} |"


def between(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| computed | profile | plain |"
    yield "|---|---|---|"
    for count in sorted({row["computed"] for row in rows.values() if row["kind"] == "between"}, reverse=True):
        profile = _of(rows, "between", count)
        yield f"| {count:g} | {_cell(profile)} | {_cell(_of(rows, 'plain between', count), profile)} |"


def _beside(rows: Mapping[str, Mapping[str, Any]], column: str, count: float, profile: Mapping[str, Any] | None) -> str:
    found = _found(rows, column, count)
    if found is None:
        return ""
    name, row = found
    said = f"`{name}` " if column in BEST else ""
    return f"{said}{_cell(row, profile)}"


def _found(rows: Mapping[str, Mapping[str, Any]], column: str, count: float) -> tuple[str, Mapping[str, Any]] | None:
    """The name and row of a column: the closest of those that cost no more, or the one of this cost."""
    if column in BEST:
        fitting = [each for each in rows.items() if each[1]["kind"] == column and each[1]["computed"] <= count + 0.51]
        return max(fitting, key=lambda each: _mean(each[1]), default=None)
    if column in ("budcache", "meancache"):
        name = f"{column},computed={count:g}"
        return (name, rows[name]) if name in rows else None
    row = _of(rows, column, count)
    return None if row is None else (column, row)


def _of(rows: Mapping[str, Mapping[str, Any]], kind: str, count: float) -> Mapping[str, Any] | None:
    return next((row for row in rows.values() if row["kind"] == kind and row["computed"] == count), None)


def _mean(row: Mapping[str, Any]) -> float:
    return sum(row["psnr"]) / len(row["psnr"])


def _cell(row: Mapping[str, Any] | None, profile: Mapping[str, Any] | None = None) -> str:
    if row is None:
        return ""
    text = close(row["psnr"])
    return text if profile is None else f"{text} ({closer(profile['psnr'], row['psnr'])})"


def close(psnr: Sequence[float]) -> str:
    return f"{sum(psnr) / len(psnr):.1f} / {min(psnr):.1f}"


def closer(ours: Sequence[float], others: Sequence[float]) -> str:
    """By how much, with its 95 % interval over paired samples."""
    found = paired(ours, others)
    return f"{found.mean:+.1f} [{found.low:.1f}, {found.high:.1f}]"
