"""Finished cases, kept one by one, so that a part that is stopped goes on with those it lacks."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]
Records = Mapping[tuple[str, str], Record]  # (part, case) -> what was found


class Absent(Exception):
    """A case cannot be measured here; the message says why. The page says so, and the next run tries again."""


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


class Lost(RuntimeError):
    """After an error the device does not answer: every further case of this process would fail with it."""


@dataclass(frozen=True)
class Case:
    """``seconds`` is a guess, which decides whether the case is started in what is left of a budget."""

    name: str
    seconds: float
    measure: Callable[[], Record]


def theirs(measure: Callable[[], Record]) -> Callable[[], Record]:
    """Of a case of another system: what that cannot do here is absent, with its reason, and no failure."""

    def attempt() -> Record:
        try:
            return measure()
        except Absent:
            raise
        except Exception as error:
            traceback.print_exc()
            raise Absent(said(error)) from error

    return attempt


class Store:
    """All records of a folder; every change replaces the file at once, also in ``mirror`` if there is one."""

    def __init__(self, folder: Path, mirror: Path | None = None) -> None:
        self.paths = [place / "cases.jsonl" for place in (folder, mirror) if place is not None]
        self.stamps: list[Record] = []
        self.cases: dict[tuple[str, str], Record] = {}
        for line in self.paths[0].read_text().splitlines() if self.paths[0].exists() else ():
            self._take(json.loads(line))

    def add(self, record: Record) -> None:
        """A case's record, which replaces the one before it, or ``{"stamp": …}``: what the next ones were made with."""
        self._take(record if "stamp" in record and "part" not in record else {**record, "stamp": len(self.stamps) - 1})
        lines = [json.dumps({"stamp": stamp}) for stamp in self.stamps]
        text = "\n".join([*lines, *map(json.dumps, self.cases.values())]) + "\n"
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".part")
            with beside.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)

    def done(self, part: str, case: str) -> bool:
        record = self.cases.get((part, case), {"absent": ""})
        return "absent" not in record and "error" not in record

    def _take(self, record: Record) -> None:
        if "part" in record:
            self.cases[record["part"], record["case"]] = record
        else:
            self.stamps.append(record["stamp"])


def run(
    part: str,
    cases: Sequence[Case],
    store: Store,
    budget: float,
    answers: Callable[[], None],
    again: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[list[str], list[str]]:
    """Measures the cases that are not done while ``budget`` (seconds) lasts; returns what is left and what failed.

    ``answers`` must raise if the device no longer does; it is asked after an error, also one that was the reason for
    an :class:`Absent`. Those that failed before come
    last: they may fail again.
    """
    lacking = [case for case in cases if again or not store.done(part, case.name)]
    lacking.sort(key=lambda case: (part, case.name) in store.cases)
    opened, ratios, failed, left = time.monotonic(), list[float](), list[str](), list[str]()
    for i, case in enumerate(lacking):
        guess = case.seconds * min(max(median(ratios), 0.2), 5.0) if ratios else case.seconds
        if i and time.monotonic() - opened + guess > budget:
            left.append(case.name)  # a shorter one behind it may still fit
            continue
        started, suspect = time.monotonic(), False
        try:
            found = case.measure()
        except Absent as why:
            found, suspect = {"absent": str(why)}, why.__cause__ is not None
        except Exception as error:  # a case's error is its record, and the others go on
            traceback.print_exc()
            found = {"error": said(error)}
            failed.append(case.name)
        took = time.monotonic() - started
        if "absent" not in found:
            ratios.append(took / max(case.seconds, 1e-3))
        store.add({"part": part, "case": case.name, "seconds": round(took, 2), **found})
        say(f"{part}: {case.name}: {found.get('error') or found.get('absent') or 'done'} ({took:.1f} s)")
        if "error" in found or suspect:
            try:
                answers()
            except Exception as error:
                raise Lost(f"{part}: after {case.name} the device does not answer ({error}); run it again") from error
    if left:
        say(f"{part}: the time is up; left: {', '.join(left)} (the same command goes on with them)")
        return left, failed
    say(f"{part}: all {len(cases)} cases are done" + (f", {len(failed)} failed" if failed else ""))
    return [], failed
