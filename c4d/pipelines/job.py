"""One prompt from request to folder: generate, time, compare, and leave the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from c4d.backends import Backend
from c4d.pipelines.arguments import effective, unknown_words
from c4d.pipelines.compare import adherence, difference, fidelity, take_turns, timing
from c4d.pipelines.generate import Clip
from c4d.pipelines.output import enlargement, write_clip, write_json, write_sheet, write_text
from c4d.pipelines.report import about_here, render
from c4d.pipelines.request import Request
from c4d.pipelines.settings import Settings

SCHEMA = 1  # of report.json
STALE = ("report.json", "report.html", "sheet.png", "video.mp4", "image.png", "uncached.mp4", "uncached.png")


def asked(request: Request, settings: Settings) -> dict[str, Any]:
    """What tells one job from another, in plain types."""
    return {**asdict(settings), **request.to_dict()}


def finished(folder: Path, request: Request, settings: Settings) -> dict[str, Any] | None:
    """The record of ``folder`` if it is complete and was made for exactly this, else None."""
    try:
        record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        same = record["schema"] == SCHEMA and record["asked"] == asked(request, settings)
        complete = same and all((folder / name).is_file() for name in record["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no report, or one that broke: the folder is made again
    return record if complete else None


def produce(
    pipe: Any,
    request: Request,
    settings: Settings,
    folder: Path,
    *,
    backend: Backend,
    progress: bool,
    notes: Sequence[str] = (),
) -> tuple[dict[str, Any], Clip]:
    """Makes the clips of one request and writes ``folder``; ``report.json`` comes last and marks it complete.

    Returns what ``report.json`` says, and the clip (the cached one if there is a method). ``notes`` are remarks for
    the reader of the report. Raises like :func:`c4d.pipelines.generate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in STALE:
        (folder / name).unlink(missing_ok=True)
    made = take_turns(pipe, request, settings, backend=backend, progress=progress)
    clip = made.clips[settings.kinds[0]]
    frames = {kind: made.clips[kind].frames for kind in ("uncached", "cached", "fewer_steps") if kind in made.clips}
    if (words := unknown_words(pipe, request.prompt)) and words:
        notes = [*notes, f"the model has no word for: {', '.join(words)}; the clip cannot show them"]
    if (factor := enlargement(clip.frames)) > 1:
        notes = [*notes, f"the saved clips are enlarged {factor} times, every pixel as a square, to be easier to see"]
    files = [write_clip(folder, "image" if len(clip.frames) == 1 else "video", clip.frames, settings.fps).name]
    rows = dict(frames)
    if settings.compare:
        files.append(write_clip(folder, "uncached", frames["uncached"], settings.fps).name)
        rows = {"uncached": frames["uncached"], "cached": frames["cached"]}
        rows["difference x8"] = difference(frames["cached"], frames["uncached"])
        if made.fewer_steps is not None:
            rows[f"{made.fewer_steps} plain steps"] = frames["fewer_steps"]
    write_sheet(folder / "sheet.png", rows)
    length, _, height, width = clip.frames.shape
    compared = [kind for kind in frames if settings.compare and kind != "uncached"]
    record = {
        "schema": SCHEMA,
        "asked": asked(request, settings),
        "settings": {**effective(pipe, request), "image": request.to_dict()["image"], "seed": request.seed},
        "pipeline": type(pipe).__name__,
        "clip": {"frames": length, "height": height, "width": width, "fps": settings.fps, "enlarged": factor},
        "fewer_steps": made.fewer_steps,
        "timing": timing(made),
        "fidelity": {kind: fidelity(frames[kind], frames["uncached"]) for kind in compared},
        "adherence": {kind: seen for kind in frames if (seen := adherence(request.prompt, frames[kind]))},
        "session": clip.report.to_dict() if clip.report is not None else None,
        "backend": {"name": backend.name, "verified": backend.verified},
        **about_here(),
        "notes": list(notes),
        "files": [*files, "sheet.png", "report.html"],
    }
    write_text(folder / "report.html", render(record, rows, [folder / name for name in reversed(files)]))
    write_json(folder / "report.json", record)
    return record, clip
