"""What ``c4d compare`` measured, read from its CSV, and each contender beside plain steps of the same cost."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from bench.stamp import ROOT
from c4d.metrics.paired import Difference, paired
from c4d.pipelines.tuning import LEVELS, OTHER, PEER, PLAIN, UNCACHED

FOLDER = ROOT / "docs/measurements/fidelity"
WRITTEN = ("BudCache", "MeanCache")
HARDLY = 0.012


@dataclass(frozen=True)
class Entry:
    """A contender: of each prompt its scores (metric -> values), the ``share`` of the work computed, seconds and bytes.

    ``flops`` of the first prompt; ``asked``: whether the judge saw what was asked for.
    """

    name: str
    kind: str
    steps: int
    share: float
    flops: int | None
    bytes: int | None
    seconds: tuple[float, ...]
    asked: tuple[bool, ...]
    scores: dict[str, tuple[float, ...]]

    @property
    def psnr(self) -> tuple[float, ...]:
        return self.scores["PSNR"]

    @property
    def close(self) -> float:
        return mean(self.psnr)

    @property
    def group(self) -> str:
        """Whose it is: c4d, profile, cache-dit, diffusers, baseline, or the kind of plain steps."""
        if self.kind == OTHER:
            return "profile" if self.name.startswith("profile:") else "c4d"
        whose = self.name.split()[0]
        return "baseline" if whose in WRITTEN else whose if self.kind == PEER else self.kind


class Beside(NamedTuple):
    """Plain steps, and how far an entry is above them in dB: ``verdict`` is better, worse or undecided."""

    plain: Entry
    psnr: Difference

    @property
    def verdict(self) -> str:
        return self.psnr.verdict


def read(path: Path) -> list[Entry]:
    """The contenders of a compare.csv, in its order."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    metrics = [name for name in ("PSNR", "SSIM", "FLIP") if name in lines[0]]
    return [_entry([line for line in lines if line["contender"] == name], metrics) for name in _names(lines)]


def _names(lines: Iterable[dict[str, str]]) -> dict[str, None]:
    return dict.fromkeys(line["contender"] for line in lines)


def _entry(lines: Sequence[dict[str, str]], metrics: Sequence[str]) -> Entry:
    first = lines[0]
    held = [int(line["cache_bytes"]) for line in lines if line["cache_bytes"]]
    return Entry(
        first["contender"],
        first["kind"],
        int(first["steps"]),
        mean(float(line["share"]) for line in lines),
        int(first["flops"]) if first["flops"] else None,
        max(held) if held else None,
        tuple(float(line["seconds"]) for line in lines),
        tuple(line["as_asked"] == "True" for line in lines if line["as_asked"]),
        {name: tuple(float(line[name]) for line in lines if line[name]) for name in metrics},
    )


def of(entries: Iterable[Entry], *groups: str) -> list[Entry]:
    return [each for each in entries if each.group in groups]


def uncached(entries: Iterable[Entry]) -> Entry:
    return next(each for each in entries if each.kind == UNCACHED)


def against(entry: Entry, entries: Iterable[Entry], kind: str = PLAIN) -> Beside | None:
    """Beside the fewest plain steps, or those at searched noise levels, of at least the same cost; None without any."""
    dearer = [each for each in entries if each.kind == kind and each.share >= entry.share - 1e-6]
    if not dearer:
        return None
    plain = min(dearer, key=lambda each: each.share)
    return Beside(plain, paired(entry.psnr, plain.psnr))


def closest(entries: Iterable[Entry], share: float) -> Entry | None:
    """Of those that cost no more than ``share``, or hardly more: FLOPs have embedding and head, forwards have not."""
    return max((each for each in entries if each.share <= share + HARDLY), key=lambda each: each.close, default=None)


__all__ = ["FOLDER", "LEVELS", "PLAIN", "Beside", "Entry", "against", "closest", "of", "read", "uncached"]
