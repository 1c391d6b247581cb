"""The pictures of README and its table, made of what was measured: ``python -m bench.pictures``.

``docs/pictures/clips-*.webp`` shows two of the held-out clips of ``bench.profiles``: the one in the middle of the
profile's PSNR, and the profile's worst one. Both are generated anew, and have to be as close to the uncached clip as
``docs/measurements/profiles/results.json`` says. ``closeness-*.svg`` and the table show all clips of that file.
``--no-clips`` leaves the clips as they are. Each picture is there for a light and for a dark page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import c4d
from bench.marked import Marked
from bench.profiles.page import close
from bench.profiles.results import Results
from bench.stamp import ROOT, stamp
from bench.yardsticks import FOLDER, HELD, Yardstick
from c4d.core.caching.profiles import QUALITIES
from c4d.metrics import psnr

MODEL, SAMPLER, STEPS = "wan-tiny", "unipc", 50
FEW = 10  # computed steps of the clips: quality "fast", where an eye sees something
OUT, PAGES = ROOT / "docs/pictures", (ROOT / "README.md", ROOT / "docs/choosing.md")  # which have the table
MARKED = Marked("measured profile", "python -m bench.pictures")
TOLERANCE = 0.5  # dB: noise of one clip in a batch of its own
TIMES = 8  # by which differences are multiplied
PIXEL, GAP, LINE, HEAD, FRAME_MS = 9, 16, 68, 44, 150  # the side of a clip's pixel; distances in pixels; milliseconds

Rows = Mapping[str, Mapping[str, Any]]  # of one model and sampler, by their names


@dataclass(frozen=True)
class Theme:
    name: str
    paper: str
    ink: str
    faint: str
    profile: str
    published: str


THEMES = (
    Theme("light", "#ffffff", "#1f2328", "#59636e", "#0969da", "#bc4c00"),
    Theme("dark", "#0d1117", "#f0f6fc", "#9198a1", "#4493f8", "#db8a4a"),
)


def measured() -> dict[str, Any]:
    start = f"{MODEL} | {SAMPLER} | "
    rows = Results(FOLDER / "results.json").rows
    return {key.removeprefix(start): row for key, row in rows.items() if key.startswith(start)}


# Clips


@dataclass(frozen=True)
class Shown:
    """Clips [3, T, H, W] of one prompt, and how close the last two are to the first, in dB."""

    which: str
    prompt: str
    clips: tuple[Tensor, Tensor, Tensor]
    psnr: tuple[float, float]


def chosen(rows: Rows) -> dict[str, int]:
    """Which clips are shown, by their places among those that were measured."""
    order = sorted(range(len(psnr_of(rows, "profile", FEW))), key=lambda i: psnr_of(rows, "profile", FEW)[i])
    return {f"the middle one of {len(order)} clips": order[len(order) // 2], "the profile's worst one": order[0]}


def generated(rows: Rows) -> list[Shown]:
    """Raises RuntimeError where a clip is not as close as was measured."""
    yardstick = Yardstick(MODEL)
    yardstick.use(yardstick.sampler(SAMPLER))
    places = chosen(rows)
    prompts, seeds = HELD[MODEL](len(psnr_of(rows, "profile", FEW)))
    asked = [prompts[i] for i in places.values()], [seeds[i] for i in places.values()]
    uncached = yardstick.make(*asked, num_inference_steps=STEPS)
    with c4d.cached(yardstick.pipe, f"profile:{MODEL},computed={FEW}"):
        cached = yardstick.make(*asked, num_inference_steps=STEPS)
    plain = yardstick.make(*asked, num_inference_steps=FEW)
    found = []
    for n, (which, place) in enumerate(places.items()):
        clips = uncached[n], cached[n], plain[n]
        close = tuple(float(psnr(clip[None], clips[0][None])) for clip in clips[1:])
        was = [psnr_of(rows, kind, FEW)[place] for kind in ("profile", "plain")]
        if any(abs(now - before) > TOLERANCE for now, before in zip(close, was, strict=True)):
            raise RuntimeError(
                f"clip {place} is {close} dB close here, and was {was}: {FOLDER / 'results.json'} is old"
            )
        found.append(Shown(which, asked[0][n], clips, (close[0], close[1])))
    return found


def film(shown: Sequence[Shown], theme: Theme) -> list[Image.Image]:
    """A picture for each frame: a row for each of ``shown``, its three clips and two differences side by side.

    A difference is that of the colour that is furthest off.
    """
    _, length, height, width = shown[0].clips[0].shape
    wide, tall = width * PIXEL, height * PIXEL
    size = 5 * wide + 4 * GAP, HEAD + len(shown) * (tall + LINE)
    ground = Image.new("RGB", size, theme.paper)
    write = ImageDraw.Draw(ground)
    large, small = ImageFont.load_default(26), ImageFont.load_default(23)
    titles = f"all {STEPS} steps", f"profile, {FEW} computed", f"{FEW} plain steps", "difference", "difference"
    for column, title in enumerate(titles):
        write.text((column * (wide + GAP), 4), title, fill=theme.ink, font=large)
    for row, each in enumerate(shown):
        below = HEAD + row * (tall + LINE) + tall + 8
        notes = (
            each.which,
            f"{each.psnr[0]:.1f} dB",
            f"{each.psnr[1]:.1f} dB",
            f"of the profile, x{TIMES}",
            f"of plain steps, x{TIMES}",
        )
        for column, note in enumerate(notes):
            ink = theme.profile if column in (1, 3) else theme.faint
            write.text((column * (wide + GAP), below), note, fill=ink, font=small)
    pictures = []
    for time in range(length):
        picture = ground.copy()
        for row, each in enumerate(shown):
            first, *others = (clip[:, time] for clip in each.clips)
            apart = [((other - first).abs().amax(0) * TIMES).clamp(0, 1).expand_as(first) for other in others]
            for column, frame in enumerate((first, *others, *apart)):
                picture.paste(_pixels(frame), (column * (wide + GAP), HEAD + row * (tall + LINE)))
        pictures.append(picture)
    return pictures


def _pixels(frame: Tensor) -> Image.Image:
    """[3, H, W] in [0, 1], each pixel a square: nothing is smoothed."""
    values = (frame * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(values)
    return image.resize((image.width * PIXEL, image.height * PIXEL), Image.Resampling.NEAREST)


# All clips


def lines(rows: Rows) -> dict[str, list[tuple[float, Sequence[float]]]]:
    """label -> (computed steps, PSNR of each clip), by steps.

    The published ones are c4d's, cache-dit's, diffusers' and those of bench/profiles/baselines.py, each with the
    settings that were best on calibration prompts; of them, those that no cheaper one equals.
    """
    published = [row for row in rows.values() if row["kind"] in ("method", "baseline", "peer")]
    return {
        "profile": [(row["computed"], row["psnr"]) for row in _of(rows, "profile", "between")],
        "best published method of the cost": list(_front(published)),
        "plain steps": [(row["computed"], row["psnr"]) for row in _of(rows, "plain", "plain between")],
    }


def _of(rows: Rows, *kinds: str) -> list[Mapping[str, Any]]:
    return sorted((row for row in rows.values() if row["kind"] in kinds), key=lambda row: row["computed"])


def psnr_of(rows: Rows, kind: str, computed: float) -> Sequence[float]:
    (found,) = (row["psnr"] for row in _of(rows, kind) if row["computed"] == computed)
    return found


def _front(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, Sequence[float]]]:
    best = 0.0
    for row in sorted(rows, key=lambda row: (row["computed"], -mean(row["psnr"]))):
        if mean(row["psnr"]) > best:
            best = mean(row["psnr"])
            yield row["computed"], row["psnr"]


def draw(rows: Rows, theme: Theme, path: Path) -> None:
    """The mean of all clips beside the worst one, over the steps that were computed."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    colours = dict(zip(lines(rows), (theme.profile, theme.published, theme.faint), strict=True))
    with rc_context({"svg.hashsalt": "c4d", "font.size": 11, "svg.fonttype": "path"}):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, of, title in ((left, mean, "mean of the clips"), (right, min, "worst clip")):
            for label, points in lines(rows).items():
                x, y = [steps for steps, _ in points], [of(each) for _, each in points]
                axes.plot(x, y, "o-", color=colours[label], markersize=3.5, linewidth=1.8)
            axes.set_title(title, color=theme.ink, fontsize=11)
            axes.set_xlabel(f"steps computed of {STEPS}", color=theme.ink)
            axes.set(xlim=(5, 26), ylim=(0, None), xticks=range(5, 26, 5))
            axes.grid(color=theme.faint, alpha=0.25)
            axes.tick_params(colors=theme.faint)
            for side in axes.spines.values():
                side.set_visible(False)
        left.set_ylabel("PSNR to the uncached clip, dB", color=theme.ink)
        for n, (label, colour) in enumerate(colours.items()):
            left.text(0.97, 0.22 - 0.08 * n, label, color=colour, ha="right", transform=left.transAxes)
        figure.savefig(path, transparent=True, metadata={"Date": None})


def table(rows: Rows) -> str:
    """A row for each quality."""
    said = ["| `--quality` | steps computed | profile | as many plain steps |", "|---|---|---|---|"]
    for quality, (share, _) in QUALITIES.items():
        count = round(share * STEPS)
        cells = (close(psnr_of(rows, kind, count)) for kind in ("profile", "plain"))
        said.append(f"| `{quality}` | {count} of {STEPS} | {' | '.join(f'{cell} dB' for cell in cells)} |")
    return "\n".join(said) + "\n"


def filled(page: str, rows: Rows) -> str:
    """``page`` with the table."""
    return MARKED.filled(page, table(rows))


def page(shown: Sequence[Shown], command: str) -> str:
    """What the pictures show, for docs/pictures/README.md."""
    said = ["# The pictures of README", "", *(__doc__ or "").replace("``", "`").split("\n\n", 1)[1].splitlines(), ""]
    said += ["![The two clips](clips-light.webp)", ""]
    said += ["| clip | prompt | profile | plain steps |", "|---|---|---|---|"]
    said += [f"| {s.which} | {s.prompt} | {s.psnr[0]:.1f} dB | {s.psnr[1]:.1f} dB |" for s in shown]
    return "\n".join([*said, "", *stamp(command, torch.get_num_threads())]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.pictures", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--no-clips", action="store_true", help="draw the figure and fill the tables alone")
    options = parser.parse_args(arguments)
    rows = measured()
    for theme in THEMES:
        draw(rows, theme, OUT / f"closeness-{theme.name}.svg")
    for each in PAGES:
        each.write_text(filled(each.read_text(), rows))
    if options.no_clips:
        return 0
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    shown = generated(rows)
    for theme in THEMES:
        first, *more = film(shown, theme)
        film_of: dict[str, Any] = {"save_all": True, "append_images": more, "duration": FRAME_MS, "loop": 0}
        first.save(OUT / f"clips-{theme.name}.webp", lossless=True, method=6, **film_of)
    (OUT / "README.md").write_text(page(shown, MARKED.command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
