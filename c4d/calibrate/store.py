"""Where the tensors of a reference pass are kept: in host memory, or in a folder, mapped into memory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INDEX = "reference.json"


class Store:
    """fp32 copies on the host; in ``folder``, if there is one, in files that are read as they are needed."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder, self._shapes = folder, list[list[int]]()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def keep(self, x: Tensor) -> Tensor:
        if self._folder is None:
            return x.detach().to("cpu", torch.float32, copy=True)
        self._shapes.append(list(x.shape))
        path = self._folder / f"{len(self._shapes) - 1:05d}"
        file = torch.from_file(str(path), shared=True, size=x.numel(), dtype=torch.float32)
        return file.view(x.shape).copy_(x.detach())

    def close(self, about: dict[str, Any]) -> None:
        """The pass is whole: :func:`reopened` finds it, and ``about``."""
        if self._folder is not None:
            write_whole(self._folder / INDEX, json.dumps({"shapes": self._shapes, "about": about}))


def write_whole(path: Path, text: str) -> None:
    """So that whoever finds the file finds all of it."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text)
    beside.replace(path)


def reopened(folder: Path) -> tuple[list[Tensor], dict[str, Any]] | None:
    """What a whole pass kept there, in its order; None if there is none."""
    try:
        found = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError):
        return None
    tensors = []
    for number, shape in enumerate(found["shapes"]):
        path = str(folder / f"{number:05d}")
        tensors.append(torch.from_file(path, shared=False, size=math.prod(shape), dtype=torch.float32).view(shape))
    return tensors, found["about"]
