"""What a command makes: its prompts, the folder that each fills, and what is made of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from c4d.cli.config import read_text
from c4d.cli.options import BenchmarkOptions, Generating
from c4d.cli.prompts import negative_prompts, requests_of
from c4d.cli.summary import listed, summary
from c4d.pipelines import (
    InputError,
    Request,
    effective,
    results,
    write_index,
    write_manifest,
    write_manifest_together,
)
from c4d.pipelines.benchmark import Benchmark, clear_halves, put, write_beside
from c4d.pipelines.report import clip_of

Records = Mapping[Path, Mapping[str, Any]]  # of results, by their folders


class Batch:
    """The clip of a prompt, or those of a prompt file."""

    pages = True  # each result has a page and a contact sheet

    def __init__(self, options: Generating) -> None:
        self.options = options

    def prompts(self) -> list[dict[str, Any]]:
        """Of each request what is its own, by its fields: ``prompt``, ``seed``, ``negative_prompt``, ….

        Raises :class:`InputError` where there is none."""
        return requests_of(self.options)

    def check(self, pipe: Any, request: Request) -> None:
        """Raises :class:`InputError` for a pipeline that cannot make it; before its weights are loaded."""

    def name(self) -> str:
        """Of a folder that nobody named."""
        file = self.options.prompt_file
        return (self.options.prompt or "") if file is None else file.stem

    def home(self, out: Path) -> Path:
        """Where the results lie, in a folder of their own each, with their manifest."""
        return out

    def jobs(self, out: Path, requests: Sequence[Request]) -> list[tuple[Path, Request]]:
        """Which folder each request fills."""
        several = self.options.prompt_file is not None
        folders = [out / f"{i:03d}" for i in range(len(requests))] if several else [out]
        return list(zip(folders, requests, strict=True))

    def resumed(self, out: Path, found: Records) -> None:
        """Before the first is made, on one rank; ``found`` are complete."""

    def completed(self, out: Path, folder: Path, records: Records, alone: bool) -> None:
        """After each, on the rank that wrote it; ``records`` are those that it knows of, ``alone`` if it writes all."""
        if alone:
            write_manifest(out, records)
        else:
            write_manifest_together(out)

    def finish(self, out: Path) -> None:
        """What is made of all results, on one rank."""
        if self.options.prompt_file is not None:
            write_index(out, results(out), summary)

    def page(self, out: Path) -> Path | None:
        """What to look at when all is made; None where nothing is made to be looked at."""
        return out / ("index.html" if self.options.prompt_file is not None else "report.html")

    def said(self, out: Path, folders: Sequence[Path]) -> str:
        """The files of ``out``, in words."""
        several = f"{folders[0].name} to {folders[-1].name}, index.html, clips.png, manifest.jsonl"
        return listed(out) if folders == [out] else several


class Samples(Batch):
    """The samples of a published benchmark, under the names that its tools look for.

    Each is a result in ``runs``, in a folder named after the prompt's number and the sample's; what the benchmark wants
    is made of these. A prompt's samples have the seeds N, N + 1, …, the same for every prompt, so that neither parts of
    the prompts nor more samples change what another command makes or finds made.
    """

    pages = False

    def __init__(self, options: BenchmarkOptions, benchmark: Benchmark) -> None:
        super().__init__(options)
        if options.prompt is not None or options.prompt_file is None:
            raise InputError(f"{benchmark.name} needs --prompt-file and no --prompt: give {benchmark.file}")
        if options.samples is not None and options.samples < 1:
            raise InputError(f"--samples is {options.samples!r}; allowed are whole numbers from 1")
        self.benchmark, self.samples = benchmark, options.samples or benchmark.samples
        text = read_text(options.prompt_file, "prompt file")
        self.items = benchmark.items(text, options.prompt_file, options.only)
        self.places = {
            f"{item.number:05d}-{sample:04d}": benchmark.sample(item, sample)
            for item in self.items
            for sample in range(self.samples)
        }

    def prompts(self) -> list[dict[str, Any]]:
        negatives, seed = negative_prompts(self.options, len(self.items)), self.options.seed
        return [
            {"prompt": item.prompt, "seed": seed + sample, "negative_prompt": negative}
            for item, negative in zip(self.items, negatives, strict=True)
            for sample in range(self.samples)
        ]

    def check(self, pipe: Any, request: Request) -> None:
        frames, name = effective(pipe, request).get("num_frames") or 1, self.benchmark.name
        if self.benchmark.pictures and frames > 1:
            raise InputError(
                f"{name} is of pictures, and {type(pipe).__name__} makes {frames} frames: give --frames 1, or another "
                "--model"
            )
        if not self.benchmark.pictures and frames == 1:
            raise InputError(
                f"{name} is of videos, and {type(pipe).__name__} makes a picture: give --frames, or another --model"
            )

    def name(self) -> str:
        return self.benchmark.name

    def home(self, out: Path) -> Path:
        return out / "runs"

    def jobs(self, out: Path, requests: Sequence[Request]) -> list[tuple[Path, Request]]:
        return list(zip((self.home(out) / name for name in self.places), requests, strict=True))

    def resumed(self, out: Path, found: Records) -> None:
        clear_halves(out, list(self.places.values()))
        write_beside(out, self.benchmark.beside(self.items, self.samples))
        for folder, record in found.items():
            self._put(out, folder, record)

    def completed(self, out: Path, folder: Path, records: Records, alone: bool) -> None:
        """The manifest comes last: of thousands of samples, one after each would be most of what is written."""
        self._put(out, folder, records[folder])

    def finish(self, out: Path) -> None:
        write_manifest(self.home(out), results(self.home(out)))

    def page(self, out: Path) -> Path | None:
        return None

    def _put(self, out: Path, folder: Path, record: Mapping[str, Any]) -> None:
        put(folder / clip_of(record), out / self.places[folder.name])

    def said(self, out: Path, folders: Sequence[Path]) -> str:
        count = f"{len(self.items)} prompts, {len(self.places)} samples, such as {next(iter(self.places.values()))}"
        return f"{count}; score them by {self.benchmark.scored.replace('DIR', str(out))}"
