"""How close methods come on prompts that no profile learned from, what they cost, and which of them to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from torch import Tensor

import c4d
from c4d.backends import Backend
from c4d.metrics.scores import decibels
from c4d.parallel.session import Parallel
from c4d.pipelines.arguments import effective
from c4d.pipelines.compare import work
from c4d.pipelines.generate import generate
from c4d.pipelines.output import Lines
from c4d.pipelines.request import Request

PROFILE, PLAIN, OTHER = "profile", "plain steps", "other"
LEVELS, UNCACHED = "plain steps at chosen noise levels", "uncached"
PEER = "another library's cache"
SAME_COST = 1e-3  # shares of the work that are as close are the same cost: what a reused forward still computes


@dataclass(frozen=True)
class Contender:
    """A method as text, or (None) plain sampling in ``steps``; ``kind`` is one of the six above.

    ``levels``: the steps of an uncached run whose noise levels the plain steps have, if they are chosen.
    ``peer``: the name of another library's cache that is at work in place of a method.
    """

    kind: str
    method: str | None
    steps: int
    levels: tuple[int, ...] = ()
    peer: str | None = None

    @property
    def name(self) -> str:
        if self.kind == UNCACHED:
            return UNCACHED
        return self.peer or self.method or f"{self.steps} {self.kind if self.levels else PLAIN}"


@dataclass(frozen=True)
class Row:
    """What a contender did on the held-out prompts: ``psnr`` in dB of each, ``share`` of the forwards' work computed,
    ``bytes`` that its cache held (None: nobody knows), ``seconds`` of a clip (median)."""

    kind: str
    name: str
    steps: int
    psnr: tuple[float, ...]
    share: float
    bytes: int | None
    seconds: float

    @property
    def mean(self) -> float:
        return mean(self.psnr)

    @property
    def worst(self) -> float:
        return min(self.psnr)


def others(pipe: Any, computed: Iterable[int], steps: int) -> list[Contender]:
    """The package's methods that need nothing but a text, at about these numbers of computed steps, where they fit."""
    texts = dict[str, None]()
    for count in computed:
        every = max(2, round(steps / count))
        texts |= dict.fromkeys(
            (
                f"taylorseer-lite:interval={every},last=1",
                f"taylorseer-lite:interval={every},last=1@blocks",
                f"dmd:interval={every}",
                f"seacache:threshold=1.0,max_skips={every - 1}",
                f"fora:interval={every}",
            )
        )
    found = []
    for text in texts:
        try:
            c4d.cached(pipe, text).unused = None  # it is only asked
        except (ValueError, TypeError):
            continue
        found.append(Contender(OTHER, text, steps))
    return found


class Measured:
    """Rows by contender, in memory and as lines of a file from which an interrupted measurement goes on."""

    def __init__(self, path: Path | None = None) -> None:
        self._lines = None if path is None else Lines(path)
        self.rows = dict[str, Row]()
        for found in self._lines.read() if self._lines is not None else ():
            self.rows[found["name"]] = Row(**{**found, "psnr": tuple(found["psnr"])})

    def add(self, row: Row) -> None:
        self.rows[row.name] = row
        if self._lines is not None:
            self._lines.add(asdict(row))


def measure(
    pipe: Any,
    requests: Sequence[Request],
    contenders: Sequence[Contender],
    measured: Measured,
    *,
    backend: Backend,
    ranks: Parallel | None = None,
    references: dict[int, Tensor] | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """A row of each contender over ``requests``; ``references`` keeps the uncached clips between calls."""
    kept: dict[int, Tensor] = {} if references is None else references
    how: dict[str, Any] = {"backend": backend, "progress": False, "ranks": ranks}
    for number, contender in enumerate(contenders, 1):
        if contender.name in measured.rows:
            continue
        clips = []
        for i, request in enumerate(requests):
            if i not in kept:
                kept[i] = generate(pipe, request, method=None, **how).frames
            clip = generate(pipe, replace(request, steps=contender.steps), method=contender.method, **how)
            clips.append((decibels(clip.frames, kept[i]), clip))
        done = [work(clip.report.to_dict()) for _, clip in clips if clip.report is not None]
        total = effective(pipe, requests[0])["num_inference_steps"]
        row = Row(
            contender.kind,
            contender.name,
            contender.steps,
            tuple(round(close, 3) for close, _ in clips),
            mean(each["done"] / each["total"] for each in done) if done else contender.steps / total,
            max((clip.report.peak_bytes for _, clip in clips if clip.report is not None), default=0),
            median(clip.seconds for _, clip in clips),
        )
        measured.add(row)
        place = f"{number}/{len(contenders)} " if len(contenders) > 1 else ""
        told(f"measured {place}{row.name}: {row.mean:.1f} dB, worst {row.worst:.1f}")
    return [measured.rows[contender.name] for contender in contenders]


def front(rows: Sequence[Row]) -> list[Row]:
    """Those that no other row beats in both cost and mean closeness, the cheapest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.share, -row.mean)):
        if not found or row.mean > found[-1].mean:
            found.append(row)
    return found


def beside(row: Row, rows: Sequence[Row], kind: str = PLAIN) -> Row | None:
    """The plain steps that cost what ``row`` costs, or the fewest that cost more; None if none were measured."""
    plain = sorted((each for each in rows if each.kind == kind), key=lambda each: each.share)
    return next((each for each in plain if each.share >= row.share - SAME_COST), plain[-1] if plain else None)


def table(rows: Sequence[Row], chosen: Row | None = None) -> Iterator[str]:
    """Lines: what each costs and how close it comes; ``*`` marks the front, ``>`` the one that is recommended."""
    best = front(rows)
    wide = min(54, max((44, *(len(row.name) for row in rows))))
    yield f"{'':2}{'':{wide}} {'computed':>8} {'PSNR mean / worst':>18} {'cache':>10} {'seconds':>8}"
    for row in sorted(rows, key=lambda row: (row.share, -row.mean)):
        mark = ">" if row is chosen else "*" if row in best else " "
        close = f"{row.mean:.1f} / {row.worst:.1f} dB"
        name = row.name if len(row.name) <= wide else f"{row.name[: wide - 3]}..."
        yield f"{mark} {name:{wide}} {row.share:8.0%} {close:>18} {size(row.bytes):>10} {row.seconds:8.2f}"


def size(count: float | None) -> str:
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def to_json(rows: Sequence[Row], chosen: Row | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Plain types only."""
    best = front(rows)
    listed = [
        {**asdict(row), "psnr": list(row.psnr), "mean": round(row.mean, 3), "worst": row.worst, "front": row in best}
        for row in rows
    ]
    return {**about, "recommended": chosen.name if chosen else None, "rows": listed}


def draw(rows: Sequence[Row], path: Path) -> bool:
    """The plot of cost and closeness; False without matplotlib (the extra ``eval``)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    looks = {PROFILE: ("tab:blue", "o-"), PLAIN: ("black", "s--"), OTHER: ("0.6", ".")}
    for kind, (colour, line) in looks.items():
        points = sorted((row.share, row.mean, row.worst) for row in rows if row.kind == kind)
        if not points:
            continue
        x, high, low = zip(*points, strict=True)
        axes.plot(x, high, line, color=colour)
        if kind != OTHER:
            axes.plot(x, low, line[:1], color=colour, fillstyle="none")
        axes.annotate(f" {kind}", (x[-1], high[-1]), color=colour)
    axes.set_xlabel("part of the forwards' work that is computed")
    axes.set_ylabel("PSNR to the uncached clip (dB); hollow: worst")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return True


def fewest(measure_one: Callable[[int], Row], learned: Sequence[int], target: float) -> tuple[int | None, list[Row]]:
    """The fewest computed steps whose mean closeness is at least ``target`` dB, between ``learned`` ones too.

    ``measure_one(count)`` gives a profile's row. Returns None for the steps if even the most are not close enough.
    """
    counts, rows = sorted(learned), []
    enough = None
    for count in counts:
        rows.append(measure_one(count))
        if rows[-1].mean >= target:
            enough = count
            break
    if enough is None:
        return None, rows
    low = max((count for count in counts if count < enough), default=enough - 1)
    while enough - low > 1:
        middle = (low + enough) // 2
        rows.append(measure_one(middle))
        low, enough = (low, middle) if rows[-1].mean >= target else (middle, enough)
    return enough, rows


def most(steps: int, speedup: float) -> int:
    """The most computed steps that leave out so much that a run of ``steps`` has ``speedup`` times fewer forwards."""
    return math.floor(steps / speedup + 1e-9)
