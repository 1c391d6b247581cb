"""A published benchmark as data: how its prompt file is read, and where its own tools look for the samples."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from c4d.pipelines.errors import InputError
from c4d.pipelines.output import atomic, clear, write_text, writing

LONGEST = 240  # bytes of a file's name: file systems allow 255, and it has a longer one while it is written


@dataclass(frozen=True)
class Item:
    """A prompt. ``number``: its place in the published file, from 0, whichever parts of it are asked for.

    ``parts``: what the benchmark counts it under; ``entry``: what the file says of it, as it says it.
    """

    number: int
    prompt: str
    parts: frozenset[str] = frozenset()
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by its published formats.

    Args:
        about: what it measures, where its prompts and its tools are, in a line.
        file: what its prompt file is called, and what is in it, for messages.
        parts: what it calls the parts of its prompts.
        pictures: whether its samples are pictures (.png); else they are videos (.mp4).
        samples: how many samples of each prompt its authors ask for.
        read: what each prompt of a file is, of its text and its name; raises ValueError for a text of another format.
        place: where a sample of an item lies in the output folder, by its number from 0, without an ending.
        beside: what else its tools read there: path -> text, of the items and the number of samples of each.
        scored: how to score the samples, in a line.
    """

    name: str
    about: str
    file: str
    parts: str
    pictures: bool
    samples: int
    read: Callable[[str, str], list[Item]]
    place: Callable[[Item, int], str]
    scored: str
    beside: Callable[[Sequence[Item], int], Mapping[str, str]] = lambda items, samples: {}

    def items(self, text: str, file: Path, only: Collection[str] = ()) -> list[Item]:
        """The prompts of a file, those of the parts ``only`` if it names any.

        Raises :class:`InputError` for a file of another format, an unknown part, and a prompt that can name no file
        where the benchmark wants that.
        """
        try:
            items = self.read(text, file.name)
        except ValueError as error:
            raise InputError(f"prompt file {str(file)!r} is not {self.name}'s: {error}; give {self.file}") from error
        if not items:
            raise InputError(f"prompt file {str(file)!r} has no prompt; give {self.file}")
        known = sorted({part for item in items for part in item.parts})
        if unknown := [part for part in only if part not in known]:
            raise InputError(f"unknown {self.parts} {unknown[0]!r} for --only: known are {', '.join(known) or 'none'}")
        chosen = [item for item in items if not only or item.parts & set(only)]
        for item in chosen:
            self._check_name(item)
        return chosen

    def sample(self, item: Item, sample: int) -> str:
        """Where a sample lies in the output folder."""
        return f"{self.place(item, sample)}.{'png' if self.pictures else 'mp4'}"

    def _check_name(self, item: Item) -> None:
        """A prompt with a slash would name a folder, here and where the benchmark's own tools look for it."""
        folders = self.sample(Item(0, "x"), 0).count("/")
        path = PurePosixPath(self.sample(item, 0))
        if len(path.parts) != folders + 1 or len(path.name.encode()) > LONGEST:
            raise InputError(
                f"{self.name} names a file after each prompt, and none can be called {path.name[:60]!r}…: prompt "
                f"{item.number + 1} has a slash, or more than {LONGEST} bytes; leave it out"
            )


def write_beside(out: Path, files: Mapping[str, str]) -> None:
    """Writes what a benchmark's tools read beside the samples, where it is not there already."""
    for name, text in files.items():
        path = out / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            same = path.is_file() and path.read_bytes() == text.encode()
        if not same:
            write_text(path, text)


def put(source: Path, target: Path) -> None:
    """``target`` becomes the file ``source``: a second name of it, or a copy where the file system has no such names.

    Raises :class:`OutputError`.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and filecmp.cmp(source, target, shallow=os.path.samefile(source, target)):
            return
    with atomic(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def clear_halves(out: Path, names: Sequence[str]) -> None:
    """Removes what killed processes left half written where the samples ``names`` lie."""
    for folder in {(out / name).parent for name in names}:
        if folder.is_dir():
            clear(folder)
