"""``c4d explain``: what was computed in a generation, by which values, and why it took as long as it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from c4d.cli.summary import summary
from c4d.pipelines import InputError
from c4d.pipelines.drawing import DRAWING, draw
from c4d.pipelines.explain import Explained, explain, text
from c4d.pipelines.output import write_text
from c4d.pipelines.results import MARK, NUMBERED, load

MOST = 5  # folders that an error names


def run(folder: Path, as_json: bool) -> None:
    """Explains every generation of ``folder`` on the terminal, and draws each that was cached beside its report."""
    records = {each: load(each) for each in folders(folder)}
    told = {each: explained(each, record) for each, record in records.items()}
    for each, what in told.items():
        if as_json:
            print(json.dumps({"folder": str(each), **what.to_dict()}, ensure_ascii=False, allow_nan=False))
        else:
            print("\n".join([f"{each}: {summary(records[each])}", *text(what)]))
        if what.rows:
            write_text(each / DRAWING, draw(what))
            if not as_json:
                print(f"drawn in {each / DRAWING}")


def folders(folder: Path) -> list[Path]:
    """``folder``, or its numbered ones, as a prompt file leaves them. Raises :class:`InputError` if there are none."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise InputError(f"{str(folder)!r} {what}; give a folder that c4d generate made (its last line names it)")
    if (folder / MARK).exists():
        return [folder]
    within = sorted(each.parent for each in folder.glob(f"*/{MARK}"))
    if numbered := [each for each in within if NUMBERED.fullmatch(each.name)]:
        return numbered
    if within:
        names = ", ".join(str(each) for each in within[:MOST]) + (", ..." if len(within) > MOST else "")
        raise InputError(f"{str(folder)!r} is of several jobs; name one of its folders: {names}")
    raise InputError(f"{str(folder)!r} has no {MARK}, so no generation ended there; c4d generate --out DIR makes one")


def explained(folder: Path, record: dict[str, Any]) -> Explained:
    """Raises :class:`InputError` for a record that is not as c4d writes it."""
    try:
        return explain(record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        path = str(folder / MARK)
        raise InputError(
            f"{path!r} is broken: {type(error).__name__}: {error}; generate again with --overwrite"
        ) from error
