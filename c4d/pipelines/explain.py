"""A run explained: which steps were computed, by which values, and what to make of it; pure logic on report.json."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from c4d.pipelines.report import ROW_STEPS, cells
from c4d.pipelines.why import instead, shares

WIDTH = 100  # of a line of text
DID = {
    "C": "computed",
    "r": "reused",
    "p": "partly reused: some of the cached modules, or some of their tokens, were computed",
}
HOW = {
    True: "attention and MLP are predicted from earlier steps, the rest of each block runs",
    False: "the result is predicted from earlier steps, and blocks are skipped",
}
LACKS = (
    "this report was written before c4d kept what each forward was decided by: values, thresholds, noise levels and "
    "seconds of single steps are not in it, and C may stand for partly reused; generate again with --overwrite"
)


@dataclass(frozen=True)
class Passed:
    """One forward: its step from 0, what it did (a letter of ``DID``), and what is known of it.

    ``noise`` is its noise level (0 to 1), ``seconds`` the host's (None where they do not tell what the forward costs),
    ``value`` what was compared with the threshold (None: decided without one).
    """

    step: int
    did: str
    noise: float | None = None
    seconds: float | None = None
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """The forwards of one branch of guidance on one expert (0, 1), in their order."""

    branch: str
    expert: int
    forwards: tuple[Passed, ...]

    @property
    def computed(self) -> list[Passed]:
        return [each for each in self.forwards if each.did != "r"]


@dataclass(frozen=True)
class Explained:
    """What there is to say of one generation; ``method`` None and no ``rows`` if nothing was cached.

    ``what`` was compared with ``threshold`` (None: the method decides by no number). ``remarks`` are pairs of what a
    sentence is about and the sentence; ``lacks`` says what an older report does not have.
    """

    model: str
    method: str | None
    steps: int
    rows: tuple[Row, ...]
    reused: str
    what: str | None
    threshold: float | None
    remarks: tuple[tuple[str, str], ...]
    lacks: str | None

    @property
    def experts(self) -> bool:
        return any(row.expert for row in self.rows)

    def title(self, row: Row) -> str:
        """The branch, as the pipeline names it or by its number, and the network of a model that has two."""
        return f"{called(row.branch)}, network {row.expert + 1}" if self.experts else called(row.branch)

    def headline(self) -> str:
        if self.method is None:
            return f"{self.model}, uncached: nothing was cached, every forward was computed"
        every = [each.did for row in self.rows for each in row.forwards]
        counts = [
            f"{every.count(letter)} {about.partition(':')[0]}" for letter, about in DID.items() if letter in every
        ]
        return f"{self.method} on {self.model}: of {len(every)} forwards {', '.join(counts)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON; a value that is no finite number is "inf" or "nan" as text."""
        rows = [
            {
                "branch": row.branch,
                "expert": row.expert,
                "timeline": line(row, 0, self.steps).strip(),
                "forwards": [{**vars(each), "value": plain(each.value)} for each in row.forwards],
            }
            for row in self.rows
        ]
        remarks: dict[str, list[str]] = {}
        for about, sentence in self.remarks:
            remarks.setdefault(about, []).append(sentence)
        head = {"model": self.model, "method": self.method, "steps": self.steps}
        weighed = {"what": self.what, "threshold": self.threshold}
        return {**head, **weighed, "rows": rows, "remarks": remarks, "lacks": self.lacks}


def explain(record: Mapping[str, Any]) -> Explained:
    """What ``record`` (report.json of one generation) says.

    Raises KeyError, TypeError, ValueError or AttributeError for one that is not as c4d writes it.
    """
    session, method = record["session"], record["asked"]["cache"]
    remarks = [
        *(("worth it", each) for each in record["worth"]),
        *((f"time of the {kind} clip", parts) for kind, parts in shares(record)),
    ]
    remarks += [("why not faster", each) for each in record["why"]]
    if session is None:
        remarks += [("note", each) for each in record["notes"] if each.startswith("--cache")]
        steps = int(record["settings"]["num_inference_steps"])
        return Explained(record["asked"]["model"], None, steps, (), "", None, None, tuple(remarks), None)
    forwards, rules = session.get("forwards"), session.get("rules", [])
    weighed = next((i for i, rule in enumerate(rules) if rule["what"] is not None), None)
    timed = "computed" in record["timing"]["phases"]["cached"]  # else the host's clock does not tell their cost
    rows = from_timelines(session["timelines"]) if forwards is None else from_forwards(forwards, weighed, timed)
    scale = {"what": None, "threshold": None} if weighed is None else rules[weighed]
    remarks += [("try", each) for each in (*threshold_to_try(rows, scale), *instead(record))]
    return Explained(
        model=record["asked"]["model"],
        method=session["method"] if method is None else method,
        steps=1 + max((each.step for row in rows for each in row.forwards), default=-1),
        rows=rows,
        reused=HOW[session["modules_total"] > 0],
        what=scale["what"],
        threshold=scale["threshold"],
        remarks=tuple(remarks),
        lacks=LACKS if forwards is None else None,
    )


def from_forwards(forwards: Sequence[Mapping[str, Any]], weighed: int | None, timed: bool) -> tuple[Row, ...]:
    """Rows of the ``forwards`` of a report; of their values those of the rule ``weighed``."""
    found: dict[tuple[str, int], list[Passed]] = {}
    for each in forwards:
        value = None if weighed is None or each["weighed"][weighed] is None else float(each["weighed"][weighed])
        seconds = each["seconds"] if timed else None
        passed = Passed(int(each["step"]), each["did"], each["noise"], seconds, value)
        if passed.did not in DID:
            raise ValueError(f"unknown action {passed.did!r}")
        found.setdefault((each["branch"], each["expert"]), []).append(passed)
    return tuple(Row(*key, tuple(passed)) for key, passed in found.items())


def from_timelines(timelines: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows of a report that has no forwards: the letters alone."""
    found: dict[tuple[str, int], list[Passed]] = {}
    for branch, text in timelines.items():
        for cell in (cell for part in cells(text) for cell in part):
            passed = Passed(cell["step"], "C" if cell["computed"] else "r")
            found.setdefault((branch, cell["expert"]), []).append(passed)
    rows = [Row(*key, tuple(passed)) for key, passed in found.items()]
    return tuple(sorted(rows, key=lambda row: row.expert))  # in the order in which they ran


def threshold_to_try(rows: Sequence[Row], scale: Mapping[str, Any]) -> Iterator[str]:
    """A threshold that would have reused a step, where the values say so: nothing was reused, and they were weighed."""
    values = [each.value for row in rows for each in row.forwards if each.value is not None]
    finite = [value for value in values if math.isfinite(value)]
    if finite and all(each.did == "C" for row in rows for each in row.forwards):
        least, now = f"{min(finite):.3g}", f"{scale['threshold']:g}"
        yield f"a threshold above {least} in place of {now}: the smallest {scale['what']} of this run was that"


def called(branch: str) -> str:
    """A branch as the pipeline names it; by its number where it does not."""
    return f"branch {branch}" if branch.isdecimal() else branch


def plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


# -- in the terminal


def text(explained: Explained) -> Iterator[str]:
    """Lines: headline, timelines, values, computed steps, sentences."""
    yield from _wrapped(explained.headline())
    if explained.rows:
        yield ""
        yield from _timelines(explained)
        yield ""
        yield from _legend(explained)
        yield ""
        yield from _computed(explained)
        yield ""
    for about, sentence in explained.remarks:
        yield from _wrapped(f"{about}: {sentence}")
    if explained.lacks:
        yield from _wrapped(f"note: {explained.lacks}")


def line(row: Row, start: int, end: int, threshold: float | None = None) -> str:
    """One character for each of the steps from ``start`` to before ``end``; with ``threshold`` of their values."""
    letters = {each.step: each.did if threshold is None else tenths(each.value, threshold) for each in row.forwards}
    return "".join(letters.get(step, " ") for step in range(start, end)).rstrip()


def tenths(value: float | None, threshold: float) -> str:
    """A value below the threshold as tenths of it; "#" at or above it, "." without a value."""
    if value is None:
        return "."
    return str(max(0, int(10 * value / threshold))) if value < threshold else "#"


def _timelines(explained: Explained) -> Iterator[str]:
    width = max(len("step"), *(len(explained.title(row)) for row in explained.rows)) + 2
    for start in range(0, explained.steps, ROW_STEPS):
        end = min(explained.steps, start + ROW_STEPS)
        ticks = "".join(f"{step:<10}" for step in range(start, end, 10)).rstrip()
        yield f"{'step':<{width}}{ticks}"
        for row in explained.rows:
            if not (letters := line(row, start, end)):
                continue
            yield f"{explained.title(row):<{width}}{letters}"
            if explained.threshold is not None:
                yield f"{'':<{width}}{line(row, start, end, explained.threshold)}"


def _legend(explained: Explained) -> Iterator[str]:
    every = {each.did for row in explained.rows for each in row.forwards}
    about = {**DID, "r": f"reused: {explained.reused}"}
    for letter in (letter for letter in DID if letter in every):
        yield from _wrapped(f"{letter} {about[letter]}")
    if explained.what is None:
        return
    yield from _wrapped(
        f"0-9 {explained.what}, in tenths of the threshold {explained.threshold:g}; # at or above it; . the step was "
        "decided without it"
    )
    for row in explained.rows:
        parts = []
        for letters, name in (("r", "reused"), ("Cp", "computed")):
            if values := [each.value for each in row.forwards if each.value is not None and each.did in letters]:
                parts.append(f"{name} at {min(values):.4g} to {max(values):.4g}")
        if parts:
            yield from _wrapped(f"{explained.title(row)}: {', '.join(parts)}; threshold {explained.threshold:g}")


def _computed(explained: Explained) -> Iterator[str]:
    """A table of the computed steps: noise level and value; rows that compute the same steps share it."""
    together: dict[tuple[int, ...], list[Row]] = {}
    for row in explained.rows:
        together.setdefault(tuple(each.step for each in row.computed), []).append(row)
    for steps, rows in together.items():
        names = [explained.title(row) for row in rows]
        lines: list[tuple[str, list[str]]] = [("step", [str(step) for step in steps])]
        if any(each.noise is not None for each in rows[0].computed):
            lines.append(("noise level", [_number(each.noise) for each in rows[0].computed]))
        for name, row in zip(names, rows, strict=True):
            if any(each.value is not None for each in row.computed):
                lines.append((name, [_number(each.value) for each in row.computed]))
        yield f"not reused on {' and '.join(names)}: {len(steps)} steps (counted from 0)"
        width, cell = max(len(name) for name, _ in lines) + 2, 8
        count = (WIDTH - width - 2) // cell
        for start in range(0, len(steps), count):
            for name, numbers in lines:
                yield f"  {name:<{width}}{''.join(f'{n:>{cell}}' for n in numbers[start : start + count])}".rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
