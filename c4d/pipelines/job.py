"""One prompt from request to folder: generate, time, compare, and leave the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from c4d.backends import Backend
from c4d.bundled import BUNDLED
from c4d.core.integration.processor_patch import AttentionSession
from c4d.parallel.session import Parallel
from c4d.pipelines.arguments import effective, unknown_words
from c4d.pipelines.compare import difference, fidelity, run_interleaved, timing, work
from c4d.pipelines.drawing import DRAWING
from c4d.pipelines.generate import Clip, Step
from c4d.pipelines.output import clear, enlargement, sync, write_clip, write_json, write_sheet, write_text, writing
from c4d.pipelines.report import about_here, render
from c4d.pipelines.request import Request
from c4d.pipelines.results import MARK, SCHEMA, asked, describe
from c4d.pipelines.settings import Settings
from c4d.pipelines.strips import write_strip
from c4d.pipelines.why import reasons, worth

# What a folder may hold from before, the mark of a complete one first: never does it stand beside other files.
CLIPS = tuple(f"{name}{end}" for name in ("video", "image", "uncached", "fewer_steps") for end in (".mp4", ".png"))
STRIPS = tuple(f"{kind}.webp" for kind in ("cached", "uncached", "fewer_steps"))
STALE = (MARK, "report.html", DRAWING, "sheet.png", *CLIPS, *STRIPS)


def produce(
    pipe: Any,
    request: Request,
    settings: Settings,
    folder: Path,
    *,
    backend: Backend,
    progress: bool,
    attention: AttentionSession | None = None,
    ranks: Parallel | None = None,
    notes: Sequence[str] = (),
    pages: bool = True,
    strips: bool = False,
    stepped: Callable[[Step], None] | None = None,
) -> tuple[dict[str, Any], Clip]:
    """Makes the clips of one request, then writes ``folder``; ``report.json`` comes last and marks it complete.

    What the folder held stays until all clips are made. Returns what ``report.json`` says, and the clip (the cached one
    if there is a method). ``attention`` is what is at work in ``pipe`` (None: the model's own), ``ranks`` those
    that share it, of which this one writes; ``notes`` are remarks for
    the reader of the report. Without ``pages`` there are the clips and ``report.json`` alone. With
    ``strips`` each kind has a film strip without loss beside them, which a page can play and compare. ``stepped`` as in
    :func:`c4d.pipelines.generate`.
    Raises like :func:`c4d.pipelines.generate`, and OutputError for a file that cannot be written.
    """
    made = run_interleaved(pipe, request, settings, backend=backend, progress=progress, ranks=ranks, stepped=stepped)
    clip = made.clips[settings.kinds[0]]
    frames = {kind: made.clips[kind].frames for kind in ("uncached", "cached", "fewer_steps") if kind in made.clips}
    if (words := unknown_words(pipe, request.prompt)) and words:
        notes = [*notes, f"the model has no word for: {', '.join(words)}; the clip cannot show them"]
    if ranks is not None and clip.report is not None:
        degrees = ranks.mesh.degrees
        if degrees.cfg > 1:
            branch = "forwards, blocks and the timeline are of one branch of guidance; other ranks made the other one"
            notes = [*notes, branch]
        if degrees.request > 1:
            notes = [*notes, f"what the cache holds is counted on one of the {degrees.request} ranks of this prompt"]
    if (factor := enlargement(clip.frames)) > 1:
        notes = [*notes, f"the saved clips are enlarged {factor} times, every pixel as a square, to be easier to see"]
    rows = dict(frames)
    if settings.compare:
        rows = {"uncached": frames["uncached"], "cached": frames["cached"]}
        rows["difference x8"] = difference(frames["cached"], frames["uncached"])
        if made.fewer_steps is not None:
            rows[f"{made.fewer_steps} plain steps"] = frames["fewer_steps"]
    length, _, height, width = clip.frames.shape
    compared = [kind for kind in frames if settings.compare and kind != "uncached"]
    session = clip.report.to_dict() if clip.report is not None else None
    times, bundled = timing(made), BUNDLED.get(settings.model)
    done = session and work(session)
    close = {kind: fidelity(frames[kind], frames["uncached"]) for kind in compared}
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "asked": asked(request, settings),
        "settings": {**effective(pipe, request), "image": None, **_files(request), "seed": request.seed},
        "pipeline": type(pipe).__name__,
        "clip": {"frames": length, "height": height, "width": width, "fps": settings.fps, "enlarged": factor},
        "fewer_steps": made.fewer_steps,
        "timing": times,
        "why": reasons(times["phases"], session, done, times["speedup"], made.warm),
        "worth": worth(close, made.fewer_steps, done, times["speedup"]),
        "fidelity": close,
        "adherence": {
            kind: seen for kind in frames if bundled and (seen := bundled.judge(request.prompt, frames[kind]))
        },
        "session": session,
        "backend": {"name": backend.name, "hardware": backend.hardware(), "verified": backend.verified},
        "ranks": None if ranks is None else {**ranks.mesh.degrees._asdict(), "said": ranks.said()},
        "attention": attention.lines() if attention is not None else ["the model's own"],
        **about_here(),
        "notes": list(notes),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder, STALE)
        sync(folder)
    clips = [write_clip(folder, "image" if length == 1 else "video", clip.frames, settings.fps)]
    others = [kind for kind in frames if settings.compare and kind != "cached"]
    clips += [write_clip(folder, kind, frames[kind], settings.fps) for kind in others]
    written = list(clips)
    for kind in frames if strips else ():
        write_strip(folder / f"{kind}.webp", frames[kind])
        written.append(folder / f"{kind}.webp")
    if pages:
        write_sheet(folder / "sheet.png", rows)
        write_text(folder / "report.html", render(record, rows, [*clips[1:2], clips[0], *clips[2:]]))
        written += [folder / "sheet.png", folder / "report.html"]
    with writing(folder / MARK):
        record["files"] = {path.name: describe(path) for path in written}
    write_json(folder / MARK, record)
    return record, clip


def _files(request: Request) -> dict[str, Any]:
    told = request.to_dict()
    return {field: told[field] for field in request.files()}
