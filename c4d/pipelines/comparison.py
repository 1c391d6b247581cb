"""What every method does to one model, beside plain steps of the same cost: measured in turns, kept at once.

A contender's result on a prompt is one entry of a journal, under a digest of all that it depends on. A process that is
killed loses the clip that it was making; what no longer fits what is asked for stays in the journal and is not read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from c4d.backends import Backend
from c4d.calibrate.levels import searched, takes_levels
from c4d.calibrate.search import Journal, score
from c4d.core.caching.step_search import evenly
from c4d.core.text.grammar import parse
from c4d.metrics.paired import paired
from c4d.metrics.scores import Measure, Metric
from c4d.pipelines.arguments import effective
from c4d.pipelines.compare import difference
from c4d.pipelines.errors import GenerationError
from c4d.pipelines.output import Lines, atomic, write_clip
from c4d.pipelines.peers import Peer
from c4d.pipelines.request import Request
from c4d.pipelines.runs import Ran
from c4d.pipelines.strips import kept_frames, write_strip
from c4d.pipelines.tuning import LEVELS, PLAIN, SAME_COST, UNCACHED, Contender, Row, beside, front
from c4d.pipelines.versions import versions

SCHEMA = 3  # of compare.json
LEARNING = 4  # prompts that noise levels are searched on
APART = 10_000  # from the seed of a measured clip to that of the same prompt in the search
ADDRESS = re.compile(r" at 0x[0-9a-f]+")

Judge = Callable[[str, Tensor], dict[str, Any] | None]
Run = Callable[[Contender, Request, bool], Ran | GenerationError]


@dataclass(frozen=True)
class Cell:
    """A contender on a prompt: metric -> score (None: cannot be told), ``work`` of it (None: no report), ``bytes`` of
    its cache (None: nobody knows), ``seconds`` of each run, ``judged`` by the model's judge, and the files of its clip.

    ``failed`` says why there is no clip.
    """

    scores: Mapping[str, float | None]
    work: Mapping[str, Any] | None
    blocks: int | None
    bytes: int | None
    judged: bool | None
    clip: str
    shape: tuple[int, ...]
    seconds: tuple[float, ...] = ()
    failed: str | None = None


class Kept:
    """What was measured and found, in memory and in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lines = folder, Lines(folder / "journal.jsonl")
        self.cells, self.found = dict[str, Cell](), dict[str, tuple[list[int], int]]()
        self.flops = dict[str, int | None]()
        for line in self._lines.read():
            self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        key = line["key"]
        if "levels" in line:
            self.found[key] = (line["levels"], line["tried"])
        elif "flops" in line:
            self.flops[key] = line["flops"]
        elif "scores" in line:
            values = {**line, "seconds": tuple(line["seconds"]), "shape": tuple(line["shape"])}
            self.cells[key] = Cell(**{name: value for name, value in values.items() if name != "key"})
        else:
            self.cells[key] = replace(self.cells[key], seconds=(*self.cells[key].seconds, *line["seconds"]))

    def add(self, key: str, **values: Any) -> None:
        line = {"key": key, **values}
        self._lines.add(line)
        self._take(line)


class Comparison:
    """The contenders of one pipeline on ``requests``.

    Args:
        methods: those to compare, as contenders; a peer's is its name in ``peers``.
        run: makes a clip (:class:`c4d.pipelines.runs.Runner`), on every rank that shares the pipeline.
        metrics: what is measured of each clip, PSNR among it; ``lacking``: why others are not.
        peers: other libraries' caches among them.
        plain: numbers of plain steps; None for those that cost what the methods cost.
        minutes: of the search for noise levels of plain steps, all of them together; 0 leaves it out.
        about: what the clips depend on besides their requests: the model's name, the dtype, ….
        judge: of the model, None if there is none.
    """

    def __init__(
        self,
        pipe: Any,
        requests: Sequence[Request],
        methods: Sequence[Contender],
        kept: Kept,
        run: Run,
        *,
        backend: Backend,
        about: Mapping[str, Any],
        metrics: Sequence[Measure],
        lacking: Mapping[Metric, str],
        peers: Sequence[Peer] = (),
        plain: Sequence[int] | None = None,
        minutes: float = 0.0,
        repeats: int = 1,
        fps: float = 16.0,
        judge: Judge | None = None,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.pipe, self.requests, self.methods, self.kept = pipe, requests, methods, kept
        self._run_on_all, self._judge, self._told, self._fps = run, judge, told, fps
        self._plain, self._minutes, self.repeats = plain, minutes, repeats
        self._metrics, self._lacking = metrics, lacking
        self._peers = {peer.name: peer for peer in peers}
        self.steps: int = effective(pipe, requests[0])["num_inference_steps"]
        self.uncached = Contender(UNCACHED, None, self.steps)
        self.with_levels = minutes > 0 and takes_levels(pipe.scheduler)
        scheduler = pipe.scheduler
        self._about = {
            **about,
            "scheduler": [type(scheduler).__name__, {k: repr(v) for k, v in sorted(scheduler.config.items())}],
            "hardware": backend.hardware(),
            "versions": versions(),
            "metrics": [measure.label for measure in metrics],
        }
        self._warm = False
        self._rules = {
            one.method: _digest(ADDRESS.sub("", repr(parse(one.method).rules))) for one in methods if one.method
        }
        for name in ("clips", "references", "search"):
            (kept.folder / name).mkdir(exist_ok=True)

    # -- measuring

    def measure(self) -> None:
        """All that is not kept yet, prompt by prompt, the contenders in turns; another round if that shows that plain
        steps of another cost are wanted."""
        while sum(self._prompt(i) for i in range(len(self.requests))):
            pass

    def contenders(self) -> list[Contender]:
        """The uncached clip, the methods, and the plain steps that are known to be wanted."""
        counts = self._counts()
        found = [self.uncached, *self.methods, *(Contender(PLAIN, None, count) for count in counts)]
        if self.with_levels:
            chosen = ((n, self._levels(n, len(counts))) for n in counts if n > 1)
            found += [Contender(LEVELS, None, n, tuple(levels)) for n, levels in chosen if levels]
        return found

    def _prompt(self, i: int) -> int:
        """Measures what is wanted on one prompt; how many runs that took."""
        runs = 0
        if i == 0:  # what the methods cost says which plain steps to put beside them
            runs += sum(self._measured(each, i, 0) for each in (self.uncached, *self.methods))
        for turn in range(self.repeats):
            first, *rest = self.contenders()
            order = [first, *(rest[::-1] if (i + turn) % 2 else rest)]
            runs += sum(self._measured(each, i, turn) for each in order)
        return runs

    def _measured(self, contender: Contender, i: int, turn: int) -> bool:
        """Runs a contender unless that turn is kept or it has failed, and counts its FLOPs on the first prompt; whether
        it did."""
        if self.failed(contender) is not None:
            return False
        key = self.key(contender, i)
        cell = self.kept.cells.get(key)
        if cell is not None and len(cell.seconds) > turn:
            return i == 0 and self._counted(contender)
        reference = None if contender is self.uncached else self._reference(i)
        self._warm_up(i)
        try:
            clip = self._run(contender, self.requests[i])
        except GenerationError as error:
            if contender is self.uncached:
                raise
            self._failed(contender, i, error)
            return True
        if cell is not None:
            self.kept.add(key, seconds=[clip.seconds])
        elif reference is None:
            self._write_reference(i, clip.frames)
            self._keep(contender, i, clip, clip.frames)
        else:
            self._keep(contender, i, clip, reference)
        if i == 0:
            self._counted(contender)
        return True

    def _failed(self, contender: Contender, i: int, error: GenerationError) -> None:
        self.kept.add(self.key(contender, i), **asdict(Cell({}, None, None, None, None, "", (), (), str(error))))
        self._told(f"{contender.name} failed: {error}")

    def _counted(self, contender: Contender) -> bool:
        """Counts the FLOPs of one more run on the first prompt, which nobody times, unless they are kept; whether it
        did. A peer of which they cannot be counted has failed, for nothing else says what it cost."""
        key = self.key(contender, 0)
        if key in self.kept.flops:
            return False
        count, why = None, GenerationError("torch counts no FLOPs of this model, so that nothing says what it cost")
        try:
            count = self._run(contender, self.requests[0], counted=True).cost.flops
        except GenerationError as error:
            why = error
        self.kept.add(key, flops=count)
        if contender.peer is not None and self._flops_share(contender) is None:
            self._failed(contender, 0, why)
        return True

    def _keep(self, contender: Contender, i: int, clip: Ran, reference: Tensor) -> None:
        """Writes the clip and its strips, then its line."""
        key, prompt = self.key(contender, i), self.requests[i].prompt
        name = f"{i:03d}-{re.sub(r'[^a-z0-9]+', '-', contender.name.lower())[:60].strip('-')}-{key[:8]}"
        folder = self.kept.folder / "clips"
        path = write_clip(folder, name, clip.frames, self._fps)
        write_strip(folder / f"{name}.strip.webp", clip.frames)
        if contender is not self.uncached:
            write_strip(folder / f"{name}.difference.webp", difference(clip.frames, reference))
        judged = self._judge(prompt, clip.frames) if self._judge is not None else None
        scores = {
            measure.metric.name: None if (found := measure(clip.frames, reference, prompt)) is None else round(found, 4)
            for measure in self._metrics
        }
        cell = Cell(
            scores,
            clip.cost.work,
            clip.cost.blocks,
            clip.cost.bytes,
            judged["as_asked"] if judged is not None else None,
            path.name,
            tuple(clip.frames.shape),
            (clip.seconds,),
        )
        self.kept.add(key, **asdict(cell))
        self._told(f"prompt {i + 1}/{len(self.requests)}: {contender.name}: {scores['PSNR']:.1f} dB")

    def _run(self, contender: Contender, request: Request, counted: bool = False) -> Ran:
        found = self._run_on_all(contender, request, counted)
        if isinstance(found, GenerationError):
            raise found
        return found

    def _warm_up(self, i: int) -> None:
        """Two plain steps that nobody times: one-time costs are no contender's."""
        if not self._warm:
            self._run(Contender(PLAIN, None, min(2, self.steps)), self.requests[i])
            self._warm = True

    def _reference(self, i: int) -> Tensor:
        """The uncached frames of a prompt, made again where their file is gone."""
        path = self._reference_path(i)
        if not path.exists():
            self._write_reference(i, self._run(self.uncached, self.requests[i]).frames)
        return load_file(path)["frames"]

    def _write_reference(self, i: int, frames: Tensor) -> None:
        with atomic(self._reference_path(i)) as temporary:
            save_file({"frames": frames.contiguous()}, temporary)

    def _reference_path(self, i: int) -> Path:
        return self.kept.folder / "references" / f"{i:03d}-{self.key(self.uncached, i)[:8]}.safetensors"

    # -- plain steps

    def _counts(self) -> list[int]:
        """Those that were asked for, else the fewest that cost at least what each method costs."""
        if self._plain is not None:
            return sorted(self._plain, reverse=True)
        shares = []
        for method in self.methods:
            cells = self._cells(method) if self.failed(method) is None else []
            shares += [self.share(method, cell) for cell in cells[:1]]
            if len(cells) == len(self.requests):  # what an adaptive method costs differs from prompt to prompt
                shares.append(mean(self.share(method, cell) for cell in cells))
        counts = {max(1, math.ceil((share - SAME_COST) * self.steps)) for share in shares}
        return sorted((count for count in counts if count < self.steps), reverse=True)

    def _levels(self, count: int, searches: int) -> list[int]:
        """The steps whose noise levels ``count`` plain steps have, searched on the first prompts under other noise.

        None if there the scheduler's own levels are as close.
        """
        learning, key = self._learning(), self._search_key(count)
        if key not in self.kept.found:
            seconds = 60 * self._minutes / searches
            self._told(f"searching noise levels for {count} plain steps ({seconds:.0f} s)")
            references = self._search_references(learning)

            def make(contender: Contender) -> Tensor:
                return torch.stack([self._run(contender, each).frames for each in learning])

            def at(steps: Sequence[int]) -> Tensor:
                return make(Contender(LEVELS, None, count, tuple(steps)))

            start = evenly(count, self.steps)
            journal = Journal(self.kept.folder / "search" / f"{count}-{key[:8]}.jsonl")
            steps, tried = searched(at, references, start, self.steps, seconds, journal)
            own = score((make(Contender(PLAIN, None, count)) - references).double().flatten(1).pow(2).mean(1))
            self.kept.add(key, levels=steps if journal[frozenset(steps)].searched < own else [], tried=tried)
        return self.kept.found[key][0]

    def _learning(self) -> list[Request]:
        return [replace(each, seed=each.seed + APART) for each in self.requests[:LEARNING]]

    def _search_key(self, count: int) -> str:
        return _digest([self._about, [each.to_dict() for each in self._learning()], count, self._minutes])

    def _search(self, count: int) -> tuple[list[int], int]:
        """What a search chose, and how many choices it tried."""
        return self.kept.found[self._search_key(count)]

    def _search_references(self, learning: Sequence[Request]) -> Tensor:
        key = _digest([self._about, [each.to_dict() for each in learning]])
        path = self.kept.folder / "search" / f"uncached-{key[:8]}.safetensors"
        if not path.exists():
            frames = torch.stack([self._run(self.uncached, each).frames for each in learning])
            with atomic(path) as temporary:
                save_file({"frames": frames.contiguous()}, temporary)
        return load_file(path)["frames"]

    # -- what came out

    def key(self, contender: Contender, i: int) -> str:
        """A digest of all that the clip and its figures depend on."""
        who = [contender.kind, contender.steps, contender.levels, self._rules.get(contender.method or "")]
        if contender.peer is not None:
            peer = self._peers[contender.peer]
            who += [peer.name, peer.version, {name: repr(value) for name, value in peer.settings.items()}]
        return _digest([self._about, self.requests[i].to_dict(), who])

    def _cells(self, contender: Contender) -> list[Cell]:
        """Those that are kept, in the order of the prompts."""
        kept = (self.kept.cells.get(self.key(contender, i)) for i in range(len(self.requests)))
        return [cell for cell in kept if cell is not None and cell.failed is None]

    def failed(self, contender: Contender) -> str | None:
        """Why there is no clip of it on some prompt; None if there are all."""
        kept = (self.kept.cells.get(self.key(contender, i)) for i in range(len(self.requests)))
        return next((cell.failed for cell in kept if cell is not None and cell.failed is not None), None)

    def flops(self, contender: Contender) -> int | None:
        """Of the transformers in a run on the first prompt; None if they could not be counted."""
        return self.kept.flops.get(self.key(contender, 0))

    def _flops_share(self, contender: Contender) -> float | None:
        """Of the uncached run's FLOPs."""
        mine, whole = self.flops(contender), self.flops(self.uncached)
        return mine / whole if mine is not None and whole else None

    def cached_nothing(self, contender: Contender) -> bool:
        """Whether a cache saved no FLOPs: its clip is the uncached one, and no way to save work."""
        share = self._flops_share(contender) if contender.method or contender.peer else None
        return share is not None and share >= 1

    def share(self, contender: Contender, cell: Cell) -> float:
        """Of the FLOPs of an uncached clip, those that were computed; of plain steps, their share of its steps.

        They are counted on the first prompt. On another a method computed as many more or fewer as its report tells,
        and a peer, which reports nothing, as many. Where none could be counted, it is what the reports tell.
        """
        if contender.method is None and contender.peer is None:
            return contender.steps / self.steps
        flops, told = self._flops_share(contender), None if cell.work is None else _told_share(cell.work)
        if told is None:
            assert flops is not None, "a peer whose FLOPs could not be counted has failed"
            return flops
        first = self.kept.cells[self.key(contender, 0)].work
        return told if flops is None or first is None else flops * told / _told_share(first)

    def row(self, contender: Contender) -> Row:
        """Over all prompts."""
        cells = self._cells(contender)
        return Row(
            contender.kind,
            contender.name,
            contender.steps,
            tuple(cell.scores["PSNR"] or 0.0 for cell in cells),
            mean(self.share(contender, cell) for cell in cells),
            None if contender.peer else max(cell.bytes or 0 for cell in cells),
            median(second for cell in cells for second in cell.seconds),
        )

    def figures(self) -> dict[str, Any]:
        """Everything that was measured, in plain types: what compare.json says."""
        wanted = self.contenders()
        whole = [each for each in wanted if len(self._cells(each)) == len(self.requests)]
        rows = {each: self.row(each) for each in whole}
        blocks = next((cell.blocks for each in self.methods for cell in self._cells(each) if cell.blocks), None)
        best = front([row for each, row in rows.items() if each.kind != UNCACHED and not self.cached_nothing(each)])
        return {
            "schema": SCHEMA,
            "about": self._about,
            "steps": self.steps,
            "repeats": self.repeats,
            "clip_frames": self._cells(self.uncached)[0].shape[0],
            "fps": self._fps,
            "peers": {peer.library: peer.version for peer in self._peers.values() if peer.version},
            "searches": {each.name: self._search(each.steps)[1] for each in wanted if each.levels},
            "prompts": [{"prompt": each.prompt, "seed": each.seed} for each in self.requests],
            "metrics": [
                {
                    "name": metric.name,
                    "unit": metric.unit,
                    "better": metric.better,
                    "about": metric.about,
                    "close": metric.close,
                    "source": source,
                }
                for metric, _, source in self._metrics
            ],
            "contenders": [self._told_of(each, rows, blocks, best) for each in whole],
            "left_out": self._left_out(wanted),
        }

    def _told_of(
        self, contender: Contender, rows: Mapping[Contender, Row], blocks: int | None, best: Sequence[Row]
    ) -> dict[str, Any]:
        row, cells = rows[contender], self._cells(contender)
        judged = [cell.judged for cell in cells if cell.judged is not None]
        counted = None
        if contender.peer is not None:
            pass  # its blocks may be run in part
        elif contender.method is None:
            counted = None if blocks is None else round(blocks * row.share)
        elif (done := cells[0].work) is not None and done["what"] == "blocks":
            counted = round(mean(cell.work["done"] for cell in cells if cell.work is not None))
        flops = self._flops_share(contender)
        return {
            "kind": contender.kind,
            "name": contender.name,
            "method": contender.method,
            "peer": contender.peer,
            "steps": contender.steps,
            "levels": list(contender.levels),
            "share": round(row.share, 4),
            "flops": self.flops(contender),
            "flops_share": None if flops is None else round(flops, 4),
            "cached_nothing": self.cached_nothing(contender),
            "block_rows": counted,
            "bytes": row.bytes,
            "seconds": row.seconds,
            "times_as_fast": rows[self.uncached].seconds / row.seconds,
            "scores": {
                metric.name: _summary([cell.scores[metric.name] for cell in cells], metric.better)
                for metric, *_ in self._metrics
            },
            "judged": {"as_asked": sum(judged), "of": len(judged)} if judged else None,
            "front": row in best,
            "beside": [] if contender is self.uncached else _beside(row, list(rows.values())),
            "prompts": [
                {"share": round(self.share(contender, cell), 4), **_plain(cell), "name": Path(cell.clip).stem}
                for cell in cells
            ],
        }

    def _left_out(self, wanted: Sequence[Contender]) -> list[str]:
        """Sentences."""
        absent = dict.fromkeys(peer.library for peer in self._peers.values() if peer.version is None)
        found = [f"{library}: not installed here (pip install {library})" for library in absent]
        for each in wanted:
            if (why := self.failed(each)) is not None:
                found.append(f"{each.name}: {why}")
        if self._minutes <= 0:
            found.append("plain steps at chosen noise levels: not searched (--minutes 0)")
        elif not self.with_levels:
            name = type(self.pipe.scheduler).__name__
            found.append(f"plain steps at chosen noise levels: {name} takes none")
        for count in self._counts() if self.with_levels else ():
            if count > 1 and not (search := self._search(count))[0]:
                said = f"none of {search[1]} that were tried came closer than the scheduler's own"
                found.append(f"{count} {LEVELS}: {said}, on the prompts of the search")
        height, width = self._cells(self.uncached)[0].shape[-2:]
        for metric, *_ in self._metrics:
            if min(height, width) < metric.least:
                found.append(f"{metric.name}: takes frames from {metric.least} pixels, and these have {width}x{height}")
        return [*found, *(f"{metric.name}: {why}" for metric, why in self._lacking.items())]

    def strips(self) -> dict[str, tuple[Path, int]]:
        """Name -> film strip and its frames, of every clip and of its difference from the uncached one."""
        found = {}
        contenders = self.contenders()
        for i in range(len(self.requests)):
            for each in contenders:
                cell = self.kept.cells.get(self.key(each, i))
                if cell is None or cell.failed is not None:
                    continue
                for kind in ("strip", "difference"):
                    path = self.kept.folder / "clips" / f"{Path(cell.clip).stem}.{kind}.webp"
                    if kind == "strip" or each is not self.uncached:
                        found[f"{Path(cell.clip).stem}.{kind}"] = (path, kept_frames(cell.shape[0]))
        return found


def as_csv(figures: Mapping[str, Any]) -> str:
    """A line for each contender and prompt, with the file of its clip; FLOPs on that of the first prompt, on which they
    are counted."""
    metrics = [metric["name"] for metric in figures["metrics"]]
    about = ["contender", "kind", "steps", "prompt", "seed"]
    names = [*about, "share", "flops", "cache_bytes", "seconds", "as_asked", *metrics, "clip"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    for one in figures["contenders"]:
        for i, (asked, got) in enumerate(zip(figures["prompts"], one["prompts"], strict=True)):
            about = [one["name"], one["kind"], one["steps"], asked["prompt"], asked["seed"]]
            seconds = median(got["seconds"])
            cost = [got["share"], None if i else one["flops"], got["bytes"], f"{seconds:.4f}"]
            more = [*cost, got["judged"], *(got["scores"][m] for m in metrics), f"clips/{got['clip']}"]
            table.writerow(["" if value is None else value for value in (*about, *more)])
    return text.getvalue()


def _beside(row: Row, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each kind of plain steps of the same cost, and how much closer ``row`` is than they are, in dB."""
    found = []
    for kind in (PLAIN, LEVELS):
        plain = beside(row, rows, kind)
        if plain is not None and plain is not row and plain.share >= row.share - SAME_COST:
            closer = paired(row.psnr, plain.psnr)
            found.append(
                {"name": plain.name, "share": round(plain.share, 4), **closer._asdict(), "clips": len(row.psnr)}
            )
    return found


def _told_share(work: Mapping[str, Any]) -> float:
    return float(work["done"] / work["total"])


def _plain(cell: Cell) -> dict[str, Any]:
    return {name: value for name, value in asdict(cell).items() if name not in ("failed", "blocks")}


def _summary(values: Sequence[float | None], better: str) -> dict[str, Any]:
    """Mean and worst of what can be told."""
    known = [value for value in values if value is not None]
    if not known:
        return {"each": list(values), "mean": None, "worst": None}
    worst = min(known) if better == "higher" else max(known)
    return {"each": list(values), "mean": round(mean(known), 4), "worst": worst}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()
