"""report.html: one self-contained page about one generation."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image
from torch import Tensor

from c4d.metrics.sheet import spaced
from c4d.pipelines.compare import work
from c4d.pipelines.output import to_bytes
from c4d.pipelines.versions import versions
from c4d.pipelines.why import NAMES

COLUMNS = 7  # frames shown, evenly spaced
ROW_STEPS = 50  # steps in one line of the timeline
FEW = 8  # prompts; an interval over fewer says little
MOST_VIDEO_BYTES = 12 * 2**20  # beyond, the page would be slow to open: the clips stay beside it
BRANCHES = {
    "cond": "the forward with the prompt",
    "uncond": "the forward without it, which the clip is steered away from",
}


def about_here() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "versions": versions(),
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def render(record: Mapping[str, Any], rows: Mapping[str, Tensor], videos: Sequence[Path]) -> str:
    """The page.

    Args:
        record: what report.json says.
        rows: title -> frames [T, 3, H, W] in [0, 1], all of one shape, shown under each other.
        videos: the saved clips, embedded if they are .mp4 and small together.
    """
    length = record["clip"]["frames"]
    shown = spaced(length, COLUMNS)
    clips = [path for path in videos if path.suffix == ".mp4"]
    if sum(path.stat().st_size for path in clips) > MOST_VIDEO_BYTES:
        clips = []
    kinds = {"video": "cached" if record["session"] else "uncached", "uncached": "uncached"}
    kinds["fewer_steps"] = f"{record['fewer_steps']} plain steps"
    return template("report.html").render(
        r=record,
        work=work(record["session"]) if record["session"] else None,
        beside=[path.name for path in videos],
        videos=[(kinds[path.stem], _uri(path.read_bytes(), "video/mp4")) for path in clips],
        shown=[index + 1 for index in shown],
        rows={title: [_picture(frames[index]) for index in shown] for title, frames in rows.items()},
        timelines=[
            {"name": name, "about": BRANCHES.get(name, ""), "lines": cells(text)}
            for name, text in (record["session"] or {"timelines": {}})["timelines"].items()
        ],
        row_steps=ROW_STEPS,
        phases=NAMES,
    )


def clip_of(record: Mapping[str, Any]) -> str:
    """The file of a result that was asked for; others may be there to compare it with."""
    return next(name for name in record["files"] if name.startswith(("video.", "image.")))


def render_index(
    out: Path, records: Mapping[Path, Mapping[str, Any]], summary: Callable[[Mapping[str, Any]], str]
) -> str:
    """The page of a prompt file: a card for each clip in ``out``, with ``summary(record)`` and a link to its report."""
    cards = []
    for folder, record in sorted(records.items()):
        clip = clip_of(record)
        where, asked = folder.relative_to(out), record["asked"]
        card = {"file": (where / clip).as_posix(), "report": (where / "report.html").as_posix()}
        cards.append({**card, "prompt": asked["prompt"], "seed": asked["seed"], "summary": summary(record)})
    last = list(records.values())[-1]["asked"]
    return template("index.html").render(cards=cards, model=last["model"], method=last["cache"])


def render_comparison(
    figures: Mapping[str, Any], pictures: Mapping[str, str], rung: Any, commands: Mapping[str, str]
) -> str:
    """The page of a comparison.

    Args:
        figures: what compare.json says.
        pictures: name of a film strip -> data URI.
        rung: how the strips were made smaller (:class:`c4d.pipelines.strips.Rung`).
        commands: contender -> the command line that makes a clip as it does.
    """
    shown = sum(f"{each['name']}.strip" in pictures for each in figures["contenders"][0]["prompts"])
    return template("compare.html").render(
        f=figures,
        data={**figures, "commands": dict(commands), "strip_frames": rung.frames if rung is not None else 0},
        pictures=dict(pictures),
        shown=shown,
        rung=rung,
        few=FEW,
    )


def template(name: str) -> Template:
    """One of the package's templates; what is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("c4d.pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def cells(timeline: str) -> list[list[dict[str, Any]]]:
    """ "CCr|C" -> lines of at most ROW_STEPS cells with step, computed, and the expert (0, 1) they ran on."""
    expert, steps = 0, list[dict[str, Any]]()
    for letter in timeline:
        if letter == "|":
            expert += 1
        else:
            steps.append({"step": len(steps), "computed": letter == "C", "expert": expert})
    return [steps[start : start + ROW_STEPS] for start in range(0, len(steps), ROW_STEPS)]


def _picture(frame: Tensor) -> str:
    """[3, H, W] -> data URI of a PNG, at most 320 pixels wide or high."""
    image = Image.fromarray(to_bytes(frame).numpy())
    image.thumbnail((320, 320))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _uri(buffer.getvalue(), "image/png")


def _uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _processor() -> str:
    """The processor's name where the system tells (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
