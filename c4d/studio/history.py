"""The clips that a folder has, as ``c4d generate`` leaves them, and the options that make one again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from c4d.cli.options import Options
from c4d.pipelines.report import clip_of
from c4d.pipelines.results import MARK, NUMBERED, SCHEMA, read

NAMES = {"frames": "num_frames"}  # option -> what it is called in a record
MOST = 200  # that are listed


def runs(root: Path) -> dict[Path, dict[str, Any]]:
    """Folder -> record of every result in ``root``, those of prompt files too, the newest first."""
    found = [*root.glob(f"*/{MARK}"), *(p for p in root.glob(f"*/*/{MARK}") if NUMBERED.fullmatch(p.parent.name))]
    found = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST]
    records = {path.parent: read(path.parent) for path in found}
    return {folder: record for folder, record in records.items() if record and record.get("schema") == SCHEMA}


def asked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that make the result of ``record`` again, by their names."""
    told = record["asked"]
    given = {each.name: told.get(NAMES.get(each.name, each.name)) for each in fields(Options)}
    if given["lora"]:
        given["lora"] = tuple(f"{each['path']}:{each['scale']:g}" for each in given["lora"])
    if given["image"]:
        given["image"] = tuple(map(Path, [given["image"]] if isinstance(given["image"], str) else given["image"]))
    return {**{name: value for name, value in given.items() if value is not None}, "cache": told["cache"] or "none"}


def thumbnail(folder: Path, record: Mapping[str, Any]) -> tuple[str, str]:
    """The clip and a line about it."""
    told = record["asked"]
    how = told["cache"] or "no cache"
    return str(folder / clip_of(record)), f"{told['prompt']} · seed {told['seed']} · {how}"
