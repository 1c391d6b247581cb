"""What DPCache and L2P need to know of a model, made of one sampling by c4d's own calibrations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import c4d
from c4d.calibrate.collect import file_of
from c4d.calibrate.published import CALIBRATIONS
from c4d.calibrate.recording import Run, recording
from c4d.pipelines.output import write_json


class Learned:
    """Calibrations of what ``run()`` samples with ``pipe``; each is made when asked for, and kept in ``folder``."""

    def __init__(self, pipe: Any, run: Callable[[], Any], folder: Path) -> None:
        self._pipe, self._sample, self._folder = pipe, run, folder

    @cached_property
    def recorded(self) -> Run:
        nothing = frozenset[Any]()
        with recording(self._pipe, partial(c4d.cached, self._pipe), nothing, noise=False, features=True) as run:
            self._sample()
        return run

    def path(self, kind: str, computed: tuple[int, ...] = (), **more: Any) -> Path:
        """The file for dpcache or l2p, of the latter for a schedule."""
        path = self._folder / f"{kind}{''.join(f'-{step}' for step in computed)}.json"
        if not path.exists():
            made = CALIBRATIONS[kind](**{**({"computed": computed} if computed else {}), **more})
            record = {"prompt": "", "steps": self.recorded.rows[-1]["total"], **made.reduce(self.recorded)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, file_of(kind, made.fit([record]), None, {}).to_dict())
        return path
