"""What a published method's calibration is: what it records of each sampling, and what it makes of all of them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, ParamSpec, TypeVar

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.recording import Opened, Row, Run, recording
from c4d.core.spec import ModelSpec
from c4d.core.types import Signal
from c4d.parallel.session import Parallel

P = ParamSpec("P")
T = TypeVar("T")
Record = dict[str, Any]  # of one sampling, plain types only; with its ``prompt``
Pairs = Sequence[tuple[float, float]]


class Fitted(NamedTuple):
    """The data that the method reads, the figures of how good they are, and lines that say it."""

    data: Mapping[str, Any]
    figures: Mapping[str, Any]
    lines: Sequence[str]


@dataclass(frozen=True)
class Sampling:
    """One sampling of ``pipe``, which ``make()`` makes, the same each time; ``opened(method)`` opens a session on it.

    ``ranks`` that make it together, None for one. ``journal``: a file that what was tried is kept in, if it is kept.
    """

    pipe: Any
    make: Callable[[], Any]
    opened: Opened
    signals: frozenset[Signal] = frozenset()
    ranks: Parallel | None = None
    journal: Path | None = None
    told: Callable[[str], None] = lambda line: None


class Calibration(ABC):
    """A calibration with its options. ``noise``: needs the noise levels; ``features``: the hidden state at every step.

    ``use``: the options with which the method reads the file, beside its path. ``alone``: it is of a single sampling.
    """

    noise: ClassVar[bool] = False
    features: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    def signals(self, specs: Sequence[ModelSpec]) -> frozenset[Signal]:
        """What is measured on the way, of models with these specs."""
        return frozenset()

    @property
    def kept_as(self) -> str:
        """What a kept record is known by: its class, and the options that :meth:`record` reads."""
        return type(self).__name__

    def record(self, sampling: Sampling) -> Record:
        """What is kept of a sampling, which is made for it; with ``steps``, the number of them."""
        run, _ = self.recorded(sampling, sampling.make)
        return {"steps": run.rows[-1]["total"], **self.reduce(run)}

    def recorded(self, sampling: Sampling, make: Callable[[], T]) -> tuple[Run, T]:
        """What one uncached sampling showed, and what ``make()`` returned, which made it."""
        how = {"noise": self.noise, "features": self.features}
        with recording(sampling.pipe, sampling.opened, sampling.signals, **how) as run:
            made = make()
        if not run.rows:
            raise CalibrationError("the sampling ran no forward of the transformer: there is nothing to calibrate")
        return run, made

    def reduce(self, run: Run) -> Record:
        """What is kept of what was recorded, the same on all ranks; plain types only."""
        return {"rows": run.rows}

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> Fitted:
        """Raises :class:`CalibrationError` for samplings of which it cannot be made."""

    @abstractmethod
    def use(self, fitted: Fitted) -> str:
        """The options that the method needs beside ``path``, as text."""

    def of_differences(self, runs: Mapping[str, Pairs]) -> list[Record]:
        """Records made of what another tool has written: (input change, output change) of each step, by run."""
        raise CalibrationError(f"{type(self).__name__} is not made of recorded differences (--from): sample a model")


class Calibrator(Generic[P]):
    """A function from options to a :class:`Calibration`, under the ``name`` of the method that reads the result."""

    def __init__(self, name: str, make: Callable[P, Calibration]) -> None:
        functools.update_wrapper(self, make)
        self.name, self._make = name, make

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Calibration:
        return self._make(*args, **kwargs)


def calibration(name: str) -> Callable[[Callable[P, Calibration]], Calibrator[P]]:
    """Makes a function that gives a calibration a :class:`Calibrator`."""
    return lambda make: Calibrator(name, make)


def by_branch(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    """The rows of each branch of guidance and expert."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["branch"], row["expert"]), []).append(row)
    return found


def steps_of(records: Sequence[Record]) -> int:
    """Of how many steps the samplings are. Raises :class:`CalibrationError` unless all have as many."""
    counts = {record["steps"] for record in records}
    if len(counts) != 1:
        raise CalibrationError(f"the samplings have {' and '.join(map(str, sorted(counts)))} steps: all need as many")
    return int(counts.pop())
