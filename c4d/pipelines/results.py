"""What lies in a folder: results told by their report.json, which of them are complete, and the manifest of all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from c4d.pipelines.errors import InputError
from c4d.pipelines.output import in_turn, write_sheets, write_text
from c4d.pipelines.report import render_index
from c4d.pipelines.request import Request, differing, digest
from c4d.pipelines.settings import Settings

SCHEMA = 4  # of report.json
MARK = "report.json"  # written last: a folder without it is not complete
MANIFEST = "manifest.jsonl"
NUMBERED = re.compile(r"\d+(-\d+)?")  # folders of several results: 000 of a prompt file, 00000-0000 of a benchmark
WAYS = "name another --out, or replace it with --overwrite"


def asked(request: Request, settings: Settings) -> dict[str, Any]:
    """What tells one job from another, in plain types."""
    told = {field.name: getattr(settings, field.name) for field in fields(settings)}
    cache = settings.cache and settings.cache.name
    return {**told, "lora": None, **settings.of_model(), "cache": cache, **request.to_dict()}


def describe(path: Path) -> dict[str, Any]:
    """What tells that a file is whole and the one that was written: its sha256 and bytes."""
    return {"sha256": digest(path), "bytes": path.stat().st_size}


def read(folder: Path) -> dict[str, Any] | None:
    """What ``folder``'s report.json says; None if there is none that can be read."""
    try:
        record = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def load(folder: Path) -> dict[str, Any]:
    """What ``folder``'s report.json says. Raises :class:`InputError` for one that this version cannot read."""
    path, again = folder / MARK, "generate again with --overwrite"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is broken, no JSON: {error}; {again}") from error
    if not isinstance(record, dict) or "schema" not in record:
        raise InputError(f"{str(path)!r} is no report of c4d generate; {again}")
    if record["schema"] != SCHEMA:
        found = f"schema {record['schema']!r}; this one reads {SCHEMA}"
        raise InputError(f"{str(path)!r} is of another version of c4d ({found}); {again}")
    return record


def complete(folder: Path) -> dict[str, Any] | None:
    """The record of ``folder`` if each of its files is there with its size and digest, else None."""
    record = read(folder)
    if record is None or record.get("schema") != SCHEMA:
        return None
    try:
        whole = all(
            (folder / name).stat().st_size == said["bytes"] and describe(folder / name) == said
            for name, said in record["files"].items()
        )
    except OSError:
        return None
    return record if whole else None


def results(out: Path) -> dict[Path, dict[str, Any]]:
    """Folder -> record of every complete result in ``out``: of one prompt in it, of several in numbered folders."""
    there = out.iterdir() if out.is_dir() else ()
    numbered = sorted(path for path in there if NUMBERED.fullmatch(path.name) and path.is_dir())
    return {folder: record for folder in (out, *numbered) if (record := complete(folder)) is not None}


def kept(
    jobs: Sequence[tuple[Path, Request]], settings: Settings, records: Mapping[Path, Mapping[str, Any]]
) -> set[Path]:
    """The folders that already hold a complete result of exactly their job.

    Raises :class:`InputError` for one that holds a result of another job: it would be overwritten.
    """
    folders = set[Path]()
    for folder, request in jobs:
        wanted, record = asked(request, settings), records.get(folder)
        if record is None:
            if (other := read(folder)) is not None and other.get("schema") != SCHEMA:
                raise InputError(f"{str(folder)!r} holds a result of another version of c4d; {WAYS}")
        elif not (names := differing(held := record["asked"], wanted)):
            folders.add(folder)
        else:
            said = ", ".join(f"{name}: {held.get(name)!r} there, {wanted.get(name)!r} asked for" for name in names)
            raise InputError(
                f"{str(folder)!r} holds the result of another job: prompt {held['prompt']!r}, seed {held['seed']}, "
                f"method {held['cache'] or 'none'} ({said}); {WAYS}"
            )
    return folders


def write_manifest(out: Path, records: Mapping[Path, Mapping[str, Any]]) -> None:
    """Writes ``out``'s manifest.jsonl: a line for every generated file of ``records``, the same whenever it is made.

    The pages about a generation are not in it: they hold times, which differ from run to run.
    Raises :class:`OutputError`.
    """
    lines = []
    for folder in sorted(records):
        record = records[folder]
        for name, said in record["files"].items():
            if name == "report.html":
                continue
            line = {
                "path": (folder / name).relative_to(out).as_posix(),
                **said,
                "prompt": record["asked"]["prompt"],
                "seed": record["asked"]["seed"],
                "method": None if name.startswith(("uncached", "fewer_steps")) else record["asked"]["cache"],
                "model": record["asked"]["model"],
                "pipeline": record["pipeline"],
                "versions": record["versions"],
                "settings": {**record["settings"], **_steps(name, record)},
                "asked": record["asked"],
            }
            lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    path, text = out / MANIFEST, "".join(lines)
    if text != (path.read_text(encoding="utf-8") if path.is_file() else ""):
        write_text(path, text)


def _steps(name: str, record: Mapping[str, Any]) -> dict[str, int]:
    """How many steps a file has, where they are not those of the request."""
    return {"num_inference_steps": record["fewer_steps"]} if name.startswith("fewer_steps") else {}


def write_index(
    out: Path, records: Mapping[Path, Mapping[str, Any]], summary: Callable[[Mapping[str, Any]], str]
) -> None:
    """Writes ``out``'s index.html and clips.png, which show all of a prompt file. Raises :class:`OutputError`."""
    records = {folder: record for folder, record in sorted(records.items()) if folder != out}
    labels = {f"{folder.name}: {record['asked']['prompt']}": folder / "sheet.png" for folder, record in records.items()}
    write_sheets(out / "clips.png", labels)
    write_text(out / "index.html", render_index(out, records, summary))


def write_manifest_together(out: Path) -> None:
    """:func:`write_manifest` of what lies in ``out``, for processes that write different results at the same time."""
    with in_turn(out):
        write_manifest(out, results(out))
