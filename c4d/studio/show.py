"""What the pages show, as HTML: steps under way, clips beside each other, words about a result, a front."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from PIL import Image
from torch import Tensor

from c4d.cli.summary import summary
from c4d.pipelines import Step
from c4d.pipelines.drawing import draw
from c4d.pipelines.explain import DID, explain
from c4d.pipelines.output import to_bytes
from c4d.pipelines.report import clip_of
from c4d.pipelines.strips import embedded, kept_frames

BUDGET = 24 * 2**20  # bytes of the strips on a page
ORDER = ("uncached", "cached", "fewer_steps")
GAIN = 8  # of a difference, as in a report


class Block(NamedTuple):
    """Frames of a clip that grows, side by side in one picture without loss, as a data URI."""

    number: int
    frames: int
    uri: str


def progress(clips: Iterable[Step]) -> str:
    """The steps of the clips so far; the last one is under way."""
    return "".join(_strip(each) for each in clips) + _legend()


def _strip(told: Step) -> str:
    rows, total = told.timelines or {"": "C" * told.number}, told.of or told.number
    lines = []
    for branch, letters in rows.items():
        letters = letters.replace("|", "")
        cells = "".join(f'<i class="{letter}" title="step {i}: {DID[letter]}"></i>' for i, letter in enumerate(letters))
        cells += "<i></i>" * max(0, total - len(letters))
        lines.append(f'<div class="row"><span>{escape(branch)}</span><div class="cells">{cells}</div></div>')
    computed = sum(letters.count("C") for letters in rows.values())
    every = sum(len(letters.replace("|", "")) for letters in rows.values())
    work = f"{computed} of {every} forwards computed" if told.timelines else "all computed"  # nobody counts forwards
    title = f"<b>{escape(told.label.strip() or 'clip')}</b> step {told.number} of {total}, {work}"
    return f'<div class="c4d-steps"><p>{title}</p>{"".join(lines)}</div>'


def _legend() -> str:
    return (
        '<p class="c4d-soft c4d-key"><span><i class="C"></i>computed</span><span><i class="r"></i>forecast</span></p>'
    )


def hint(words: str) -> str:
    """What will be there (HTML)."""
    return f'<p class="c4d-hint">{words}</p>'


def waiting(ahead: int) -> str:
    """Of a job whose turn has not come, or that has told nothing yet."""
    said = f"waiting: {ahead} job{'s' * (ahead > 1)} before this one" if ahead else "loading the model"
    return f'<p class="c4d-soft c4d-wait">{said} …</p>'


def problem(error: BaseException) -> str:
    """An error in its own words."""
    return f'<p class="c4d-problem">{escape(str(error) or type(error).__name__)}</p>'


def result(folder: Path, record: Mapping[str, Any]) -> str:
    """What came of it in a line, its files to take home, and the clip; with a comparison all clips beside each other
    and the difference, in one clock."""
    kinds = [kind for kind in ORDER if kind in record["timing"]["median"]]
    compared = len(kinds) > 1 and all((folder / f"{kind}.webp").is_file() for kind in kinds)
    clips = _player(folder, record, kinds) if compared else _alone(folder, record)
    return f'<div class="c4d-result">{_headline(record)}{_files(folder, record)}{clips}</div>'


def _headline(record: Mapping[str, Any]) -> str:
    timing, close = record["timing"], record["fidelity"].get("cached")
    if close is None:
        (kind,) = timing["median"]
        return f"<p><b>{timing['median'][kind]:.3g} s</b></p>"
    said = "the same to the bit" if close["identical"] else f"{close['psnr_db']:.1f} dB close to the uncached clip"
    return f"<p><b>{timing['speedup']:.1f} times as fast</b>, {said}</p>"


def _player(folder: Path, record: Mapping[str, Any], kinds: Sequence[str]) -> str:
    clip, seconds = record["clip"], record["timing"]["median"]
    names = {"fewer_steps": f"{record['fewer_steps']} plain steps"}
    captions = {
        kind: f"{names.get(kind, kind)} · {seconds[kind]:.2f} s{_closeness(record['fidelity'].get(kind))}"
        for kind in kinds
    }
    strips = {kind: (folder / f"{kind}.webp", kept_frames(clip["frames"])) for kind in kinds}
    pictures, rung = embedded(strips, BUDGET)
    count = kept_frames(clip["frames"]) if rung is None else min(kept_frames(clip["frames"]), rung.frames)
    fps = clip["fps"] * count / clip["frames"]
    views = [
        f'<figure data-view="{kind}"><canvas></canvas><figcaption>{escape(captions[kind])}</figcaption></figure>'
        for kind in kinds
    ]
    difference = f"difference × <output>{GAIN}</output>"
    views.insert(2, f'<figure data-view="difference"><canvas></canvas><figcaption>{difference}</figcaption></figure>')
    small = " small" if max(clip["height"], clip["width"]) < 256 else ""
    moves = "" if count > 1 else " hidden"
    note = [] if count == clip["frames"] else [f"{count} of {clip['frames']} frames"]
    note += [] if rung is None or rung.quality is None else ["made smaller for this page, the difference too"]
    images = "".join(f'<img hidden data-name="{kind}" src="{uri}">' for kind, uri in pictures.items())
    return (
        f'<div class="c4d-player" data-fps="{fps}" data-frames="{count}">'
        f'<div class="views{small}">{"".join(views)}</div>'
        f'<div class="controls"><button type="button" class="play"{moves}>pause</button>'
        f'<input type="range" class="frame" min="0" max="{count - 1}" value="0" aria-label="frame"{moves}>'
        f'<label>difference × <input type="range" class="gain" min="1" max="32" value="{GAIN}"></label></div>'
        f'<p class="c4d-soft">{", ".join(note)}</p>{images}</div>'
    )


def _closeness(close: Mapping[str, Any] | None) -> str:
    """To the uncached clip, in a caption; nothing of that clip itself."""
    if close is None:
        return ""
    return " · identical" if close["identical"] else f" · {close['psnr_db']:.1f} dB"


def _alone(folder: Path, record: Mapping[str, Any]) -> str:
    clip = folder / clip_of(record)
    small = " small" if max(record["clip"]["height"], record["clip"]["width"]) < 256 else ""
    return f'<div class="c4d-alone{small}">{film(clip)}</div>'


def _files(folder: Path, record: Mapping[str, Any]) -> str:
    """Links that save them."""
    picture = clip_of(record).startswith("image.")
    what = "picture" if picture else "clip"
    named = {clip_of(record): f"Download the {what}"}
    if "cached" in record["fidelity"]:
        uncached = f"uncached.{'png' if picture else 'mp4'}"
        named |= {"report.html": "Download the comparison", uncached: f"Download the uncached {what}"}
    return links({folder / name: words for name, words in named.items()})


def links(files: Mapping[Path, str]) -> str:
    """Links that save the files, each under a name that has its folder's."""
    found = [
        f'<a href="{_where(path)}" download="{escape(f"{path.parent.name}-{path.name}", quote=True)}">{words}</a>'
        for path, words in files.items()
    ]
    return f'<p class="c4d-files">{"".join(found)}</p>'


def rolled(clip: Path) -> str:
    """The film of a rollout."""
    kept = links({clip: "Download the clip"})
    return f'<div class="c4d-result">{kept}<div class="c4d-alone">{film(clip)}</div></div>'


def asked(told: Mapping[str, Any]) -> str:
    """What a rollout was asked for, in a line."""
    said = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
    return f'<div class="c4d-said"><p class="c4d-soft">{escape(said)}</p></div>'


def film(path: Path) -> str:
    """A film that plays, or a picture, from where it lies."""
    if path.suffix == ".png":
        return f'<img src="{_where(path)}" alt="the picture">'
    return f'<video src="{_where(path)}" controls autoplay loop muted playsinline></video>'


def _where(path: Path) -> str:
    return f"gradio_api/file={escape(quote(str(path.resolve())), quote=True)}"


def said(record: Mapping[str, Any]) -> str:
    """The result in words, and the drawing of its steps."""
    told = record["asked"]
    what = f"“{told['prompt']}” · {told['model']} · seed {told['seed']} · {told['cache'] or 'no cache'}"
    lines = [f"<p>{escape(summary(record))}</p>"]
    lines += [f"<li>{escape(each)}</li>" for each in (*record["worth"], *record["why"], *record["notes"])]
    explained = explain(record)
    if explained.rows:
        picture = base64.b64encode(draw(replace(explained, remarks=())).encode()).decode()
        lines.append(f'<img class="steps" alt="which steps were computed" src="data:image/svg+xml;base64,{picture}">')
    details = f"<details><summary>What it cost, and why</summary>{''.join(lines)}</details>"
    return f'<div class="c4d-said"><p class="c4d-soft">{escape(what)}</p>{details}</div>'


def stream(run: int, fps: float, blocks: Sequence[Block], status: str, ended: bool) -> str:
    """A clip that is played while it is made: the last ``blocks`` of the ``run``."""
    images = "".join(
        f'<img hidden data-block="{each.number}" data-frames="{each.frames}" src="{each.uri}">' for each in blocks
    )
    return (
        f'<div class="c4d-stream" data-run="{run}" data-fps="{fps}" data-ended="{int(ended)}"><canvas></canvas>'
        f'<p class="c4d-soft">{escape(status)}</p>{images}</div>'
    )


def block(number: int, frames: Tensor) -> Block:
    """Of frames [T, 3, H, W] in [0, 1]."""
    pixels = to_bytes(frames.cpu())
    whole = pixels.transpose(0, 1).reshape(pixels.shape[1], -1, 3).numpy()
    buffer = BytesIO()
    Image.fromarray(whole).save(buffer, "PNG")
    return Block(number, len(frames), f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
