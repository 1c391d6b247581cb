"""What was measured of a method: its rows of the tables that ``c4d compare`` left in docs/measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from bench.fidelity.page import interval, short
from bench.fidelity.table import FOLDER, Beside, Entry, against, of, read
from bench.recent import FOLDER as RECENT
from tools.site.markdown import code, link, table, unbroken

HEAD = ("setting", "computed", "PSNR, mean / worst", "plain steps, and theirs", "above them")


@dataclass(frozen=True)
class Table:
    """The contenders on one bundled ``model``, and the ``page`` in docs/measurements that has them all."""

    model: str
    page: str
    entries: Sequence[Entry]

    def rows(self, method: str) -> Iterator[tuple[Entry, Beside | None]]:
        """The settings of a method beside plain steps of the same cost (None: none cost as much), the dearest first."""
        for entry in sorted(of(self.entries, "c4d", "profile"), key=lambda entry: -entry.share):
            if entry.name.partition(":")[0] == method:
                yield entry, against(entry, self.entries)


@cache
def measured() -> tuple[Table, ...]:
    """Every table that there is."""
    files = [file for folder in (FOLDER, RECENT) for file in sorted(folder.glob("*.csv"))]
    return tuple(Table(file.stem, file.parent.name, read(file)) for file in files)


def section(method: str) -> str:
    """The rows of a method, by model; a sentence where there are none."""
    parts = []
    for each in measured():
        if rows := [_cells(entry, beside) for entry, beside in each.rows(method)]:
            where = link(each.page, f"../docs/measurements/{each.page}/README.md")
            parts.append(f"On `{each.model}` ({where}):\n\n{table(HEAD, rows)}")
    if not parts:
        return "No table in `docs/measurements` has a setting of this method."
    return (
        "Closeness to the uncached run of 50 steps in dB, beside the fewest plain steps that cost at least as much, on "
        "prompts that nothing was learned from. *Above them* is the mean difference with its 95 % interval, in "
        "bold where all of that is above 0. These are small bundled models: what a method does to a large one, these "
        "tables do not say.\n\n" + "\n\n".join(parts)
    )


def _cells(entry: Entry, beside: Beside | None) -> list[str]:
    cells = [code(short(entry.name)), f"{entry.share:.0%}", unbroken(_psnr(entry))]
    if beside is None:
        return [*cells, "none cost as much", ""]
    above = unbroken(interval(beside.psnr))
    plain = unbroken(f"{beside.plain.steps}: {_psnr(beside.plain)}")
    return [*cells, plain, f"**{above}**" if beside.verdict == "better" else above]


def _psnr(entry: Entry) -> str:
    return f"{entry.close:.1f} / {min(entry.psnr):.1f}"
