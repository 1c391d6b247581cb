"""The plot of cost and closeness, and pictures at equal cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench.fidelity.page import SYSTEMS, short
from bench.fidelity.table import LEVELS, PLAIN, Entry, closest, of
from c4d.metrics.sheet import spaced

LINES = {  # group -> label, colour, style
    "profile": ("profile", "tab:blue", "o-"),
    "c4d": ("best of c4d's other methods", "tab:orange", "o-"),
    "cache-dit": ("best of cache-dit", "tab:green", "o-"),
    "diffusers": ("best of diffusers", "tab:red", "o-"),
    "baseline": ("BudCache, MeanCache", "tab:purple", "o-"),
    PLAIN: ("plain steps", "black", "-"),
    LEVELS: ("plain steps, searched levels", "black", "--"),
}
SHOWN = 14 / 50  # share of the pictures
MOST = 0.6  # share of the plot: beyond, nobody is far from the uncached run
HEIGHT = 64  # of a frame, in pixels


def draw(title: str, entries: Sequence[Entry], path: Path) -> None:
    """Lines of what is best for its cost, labelled where they end; all other settings are grey points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = []
    for group, (label, colour, style) in LINES.items():
        there = [each for each in of(entries, group) if each.share <= MOST]
        best = list(_front(there)) if group in SYSTEMS else sorted(there, key=lambda e: e.share)
        grey = [each for each in there if each not in best]
        axes.plot([100 * e.share for e in grey], [e.close for e in grey], ".", color="0.8", zorder=1)
        if best:
            x, y = [100 * e.share for e in best], [e.close for e in best]
            axes.plot(x, y, style, color=colour, markersize=4, linewidth=1.6, zorder=2)
            ends.append((y[-1], x[-1], label, colour))
    low = min(each.close for each in of(entries, PLAIN))
    right, beneath = max(x for _, x, *_ in ends), None
    for y, x, label, colour in sorted(ends, reverse=True):  # from the top; labels keep a distance
        at = y if beneath is None else min(y, beneath - 1.6)
        line = {"arrowstyle": "-", "color": colour, "lw": 0.5}
        axes.annotate(label, (x, y), (right + 2, at), color=colour, va="center", arrowprops=line)
        beneath = at
    axes.set(title=title, xlabel="computed, % of the uncached run", ylabel="PSNR to the uncached run, dB, mean")
    axes.set(xlim=(10, right + 24), ylim=(max(10, low - 8), None))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def _front(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Those that no cheaper one of the same group equals."""
    best = -1.0
    for each in sorted(entries, key=lambda e: (e.share, -e.close)):
        if each.close > best:
            best = each.close
            yield each


def pictures(entries: Sequence[Entry], folder: Path, path: Path, prompts: Sequence[int] = (0, 1)) -> None:
    """What ``c4d compare`` kept in ``folder``, at one cost: frames and their difference, a row for each contender."""
    if not (folder / "compare.json").exists():
        return
    found = {each["name"]: each for each in json.loads((folder / "compare.json").read_text())["contenders"]}
    names = ["uncached"]
    for group in (*SYSTEMS, PLAIN):
        near = closest((each for each in of(entries, group) if each.share > SHOWN / 2), SHOWN)
        names += [near.name] if near is not None else []
    rows = []
    for name in names:
        strips = []
        for prompt in prompts:
            clip = folder / "clips" / found[name]["prompts"][prompt]["name"]
            for kind in ("strip", "difference"):
                file = Path(f"{clip}.{kind}.webp")
                strips.append(_frames(Image.open(file).convert("RGB")) if file.exists() else None)
        rows.append(strips)
    wide = max(image.width for row in rows for image in row if image is not None) + 8
    left, font = 330, ImageFont.load_default()
    sheet = Image.new("RGB", (left + wide * len(rows[0]), (HEIGHT + 6) * len(rows)), "white")
    write = ImageDraw.Draw(sheet)
    for y, (name, row) in enumerate(zip(names, rows, strict=True)):
        said = short(name)
        said = said if len(said) < 52 else f"{said[:49]}..."
        write.text((6, y * (HEIGHT + 6) + 6), f"{said}\n{found[name]['share']:.0%} computed", fill="black", font=font)
        for x, image in enumerate(row):
            if image is not None:
                sheet.paste(image, (left + x * wide, y * (HEIGHT + 6)))
    sheet.save(path, optimize=True)


def _frames(strip: Image.Image, count: int = 3) -> Image.Image:
    """First, middle and last frame of a strip of square frames."""
    side = strip.height
    total = max(1, strip.width // side)
    chosen = spaced(total, count)
    out = Image.new("RGB", ((HEIGHT + 3) * len(chosen), HEIGHT), "white")
    for x, i in enumerate(chosen):
        frame = strip.crop((i * side, 0, (i + 1) * side, side)).resize((HEIGHT, HEIGHT))
        out.paste(frame, (x * (HEIGHT + 3), 0))
    return out
