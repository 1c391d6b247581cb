"""What a published method's calibration is: what it records of each sampling, and what it makes of all of them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, ParamSpec

from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.recording import Row, Run
from c4d.core.spec import ModelSpec
from c4d.core.types import Signal

P = ParamSpec("P")
Record = dict[str, Any]  # of one sampling, plain types only; with its ``prompt``
Pairs = Sequence[tuple[float, float]]


class Fitted(NamedTuple):
    """The data that the method reads, the figures of how good they are, and lines that say it."""

    data: Mapping[str, Any]
    figures: Mapping[str, Any]
    lines: Sequence[str]


class Calibration(ABC):
    """A calibration with its options. ``noise``: needs the noise levels; ``features``: the hidden state at every step.

    ``use``: the options with which the method reads the file, beside its path.
    """

    noise: ClassVar[bool] = False
    features: ClassVar[bool] = False

    def signals(self, specs: Sequence[ModelSpec]) -> frozenset[Signal]:
        """What is measured on the way, of models with these specs."""
        return frozenset()

    @property
    def kept_as(self) -> str:
        """What a kept record is known by: its class, and the options that :meth:`reduce` reads."""
        return type(self).__name__

    def reduce(self, run: Run) -> Record:
        """What is kept of a sampling, the same on all ranks; plain types only."""
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
