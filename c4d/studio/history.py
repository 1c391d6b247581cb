"""What a folder has of ``c4d generate`` and ``c4d rollout``, and the options that make it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from c4d.causal.rollout import FILE
from c4d.cli.options import Options
from c4d.cli.rollout import CLIP
from c4d.pipelines.lora import EXPERT
from c4d.pipelines.report import clip_of
from c4d.pipelines.results import MARK, NUMBERED, SCHEMA, read

NAMES = {"frames": "num_frames"}  # option -> what it is called in a record
MOST = 200  # that are listed


def runs(root: Path) -> dict[Path, dict[str, Any]]:
    """Folder -> record of every result in ``root``, those of prompt files too, the newest first."""
    found = [*root.glob(f"*/{MARK}"), *(p for p in root.glob(f"*/*/{MARK}") if NUMBERED.fullmatch(p.parent.name))]
    records = {path.parent: read(path.parent) for path in _newest(found)}
    return {folder: record for folder, record in records.items() if record and record.get("schema") == SCHEMA}


def rollouts(root: Path) -> dict[Path, dict[str, Any]]:
    """The same of rollouts."""
    records = {path.parent: rolled(path.parent) for path in _newest(root.glob(f"*/{FILE}"))}
    return {folder: record for folder, record in records.items() if record is not None}


def rolled(folder: Path) -> dict[str, Any] | None:
    """The record of a rollout; None where there is none, or one of a version that did not say what was asked."""
    with suppress(OSError, ValueError):
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if "asked" in record and (folder / CLIP).is_file():
            return dict(record)
    return None


def both(root: Path) -> list[tuple[Path, str, str]]:
    """Folder, film or picture, and a line about it, of everything in ``root``, the newest first."""
    found = {at / MARK: (str(at / clip_of(record)), _line(record["asked"])) for at, record in runs(root).items()}
    for at, record in rollouts(root).items():
        found[at / FILE] = str(at / CLIP), f"{record['prompt']} · seed {record['seed']} · rollout"
    return [(path.parent, *found[path]) for path in _newest(found)]


def asked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that make the result of ``record`` again, by their names."""
    told = record["asked"]
    given = {each.name: told.get(NAMES.get(each.name, each.name)) for each in fields(Options)}
    if given["lora"]:
        given["lora"] = [_lora(each) for each in given["lora"]]
    if isinstance(given["image"], str):
        given["image"] = [given["image"]]
    return {**_given(given), "cache": told["cache"] or "none"}


def asked_of_rollout(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a rollout."""
    return _given(record["asked"])


def _given(told: Mapping[str, Any]) -> dict[str, Any]:
    """As an option has it: lists are tuples, and pictures are paths."""
    found = {name: value for name, value in told.items() if value is not None}
    several = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return found | several | {name: tuple(map(Path, value)) for name, value in several.items() if name == "image"}


def _lora(told: Mapping[str, Any]) -> str:
    """As ``--lora`` names it."""
    return f"{told['path']}:{told['scale']!r}{EXPERT if told.get('expert') else ''}"


def _line(told: Mapping[str, Any]) -> str:
    return f"{told['prompt']} · seed {told['seed']} · {told['cache'] or 'no cache'}"


def _newest(paths: Iterable[Path]) -> list[Path]:
    """Of those that are still there: a clip may be made again meanwhile."""
    dated = list[tuple[float, Path]]()
    for path in paths:
        with suppress(OSError):
            dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated, reverse=True)[:MOST]]
