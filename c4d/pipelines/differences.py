"""Differences from step to step that another tool has recorded: a folder of files, one a run.

Each file has two columns, a row a step: how far the signal changed since the step before, and how far what is to be
predicted did. ``.csv`` and ``.txt``: text in UTF-8, the columns separated by a comma or by blanks, # comments, and a
first line of names if there is one. ``.npy``: an array [steps, 2]. ``.npz``: arrays ``input`` and ``output`` [steps].
NaN and infinity are read as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from c4d.pipelines.errors import InputError

Pairs = list[tuple[float, float]]


def read_differences(folder: Path) -> dict[str, Pairs]:
    """File name -> (input change, output change) of each of its steps, the files in the order of their names.

    Raises :class:`InputError` for a folder without such files, and for a file without two columns of numbers.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix in READERS) if folder.is_dir() else []
    if not found:
        raise InputError(f"{str(folder)!r} has no recorded differences: give a folder with {', '.join(READERS)} files")
    runs = dict[str, Pairs]()
    for path in found:
        try:
            pairs = READERS[path.suffix](path)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"differences {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
        if not pairs:
            raise InputError(f"differences {str(path)!r} have no row: write two columns, a row a step")
        runs[path.name] = pairs
    return runs


def _text(path: Path) -> Pairs:
    pairs, lines = Pairs(), path.read_text(encoding="utf-8-sig").splitlines()
    said = [(n, line.partition("#")[0].strip()) for n, line in enumerate(lines, 1)]
    for place, (number, line) in enumerate([each for each in said if each[1]]):
        parts = re.split(r"\s*,\s*|\s+", line)
        try:
            x, y = map(float, parts)
        except ValueError:
            if place == 0 and len(parts) == 2 and not any(map(_is_number, parts)):
                continue  # names of the columns
            raise ValueError(f"line {number} is {line!r}, not two numbers") from None
        pairs.append((x, y))
    return pairs


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _array(path: Path) -> Pairs:
    return _pairs(np.load(path, allow_pickle=False))


def _arrays(path: Path) -> Pairs:
    with np.load(path, allow_pickle=False) as found:
        if lacking := {"input", "output"} - set(found.files):
            raise ValueError(f"it has no array {' and '.join(sorted(lacking))}, but {', '.join(found.files)}")
        return _pairs(np.stack([found["input"], found["output"]], axis=-1))


def _pairs(array: Any) -> Pairs:
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"its shape is {list(array.shape)}, not [steps, 2]")
    return [(float(x), float(y)) for x, y in array]


READERS: Mapping[str, Callable[[Path], Pairs]] = MappingProxyType(
    {".csv": _text, ".txt": _text, ".npy": _array, ".npz": _arrays}
)
