"""The ring of features a site has stored, oldest first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from c4d.core.runtime.eight_bits import EightBits, quantized, widened
from c4d.core.runtime.outputs import Structure, storages
from c4d.core.types import Fetching, Parked, Predicted, Primitives

PLACES = ("device", "host")
Kept = tuple[Tensor | Parked, ...]  # a feature: itself, or eight bits and their scales


@dataclass(frozen=True)
class HistoryConfig:
    """How features are kept: ``dtype`` (None: as computed) and ``place`` ("device", or "host": pinned where it can).

    ``torch.int8`` is with a scale for each token (:func:`c4d.core.runtime.eight_bits.quantized`).
    """

    dtype: torch.dtype | None = None
    place: str = "device"

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"unknown place {self.place!r} for the history: known are {', '.join(PLACES)}")
        if self.dtype is not None and not self.dtype.is_floating_point and not self.scaled:
            raise ValueError(f"a history holds floating-point features, or torch.int8 with scales, not {self.dtype}")

    @property
    def scaled(self) -> bool:
        """Whether features are kept as whole numbers with scales."""
        return self.dtype is torch.int8

    @property
    def most(self) -> float:
        """The largest number that can be kept."""
        return math.inf if self.dtype is None or self.scaled else torch.finfo(self.dtype).max


class History:
    """At most ``length`` entries of (time, tensors), and the last ``num_forecasts`` forecasts among them."""

    def __init__(self, length: int, storage: HistoryConfig, backend: Primitives, num_forecasts: int = 0) -> None:
        self._storage, self._backend = storage, backend
        self._room = {False: length, True: num_forecasts}  # for computed entries, for forecasts
        self.times: tuple[float, ...] = ()
        self._entries: list[list[Kept]] = []
        self.shapes: list[torch.Size] = []  # of the tensors of every entry
        self.dtypes: list[torch.dtype] = []  # that the computed tensors came in
        self.step = -1  # of the newest computed entry
        self.gram: dict[int, list[Tensor]] = {}  # inner products of the entries' i-th tensors, if somebody asked
        self.structure: Structure | None = None  # how the tensors of an entry make up the output they came from
        self._beside: list[Kept] = []  # what came with the newest computed entry, for each of its tensors
        self._begun: dict[int, Fetching] = {}  # what is on its way from the host, or there, by id of what is parked

    @property
    def width(self) -> int:
        """Tensors in an entry."""
        return len(self._entries[-1])

    @property
    def predicted(self) -> tuple[bool, ...]:
        """Which of the times are those of forecasts."""
        return tuple(isinstance(time, Predicted) for time in self.times)

    def push(self, time: float, tensors: Sequence[Tensor]) -> None:
        """Stores the tensors as they are (detached, no copy unless dtype or place ask for one, or it is a slice).

        A change in number or shape of the tensors begins anew: features of different shapes do not combine. A
        ``Predicted`` time takes the place of the oldest forecast only, and a time that is there already of its entry
        (two steps of Heun's method have one noise level).
        """
        shapes = [x.shape for x in tensors]
        if shapes != self.shapes:
            self.clear()
            self.shapes = shapes
        forecast = isinstance(time, Predicted)
        if not forecast:  # which is of what is kept, not of what came
            self.dtypes = [x.dtype for x in tensors]
        if self.times and self.times[-1] == time:
            self.times = self.times[:-1]
            del self._entries[-1]
        same = [i for i, t in enumerate(self.times) if isinstance(t, Predicted) == forecast]
        if len(same) >= self._room[forecast]:
            self.times = self.times[: same[0]] + self.times[same[0] + 1 :]
            del self._entries[same[0]]
        self.times, self.gram = (*self.times, time), {}
        self._entries.append([self._keep(x.detach()) for x in tensors])
        self.let_go()

    @property
    def beside(self) -> list[Tensor]:
        """The tensors that were kept beside the newest computed entry, on the compute device; empty without any."""
        return [self._there(x) for x in self._beside]

    def keep_beside(self, tensors: Sequence[Tensor]) -> None:
        """Keeps ``tensors`` in place of what came with an earlier entry."""
        self._beside = [self._keep(x.detach()) for x in tensors]
        self.let_go()

    def features(self, i: int) -> list[Tensor]:
        """The i-th tensor of every entry, oldest first, on the compute device."""
        return [self._there(entry[i]) for entry in self._entries]

    def renew(self, i: int, now: Tensor, before: Tensor) -> None:
        """Tokens were computed, by which a forecast of the ``i``-th tensor is ``now``, not ``before``: so will be later
        ones, for every entry moves by the difference."""
        held = self.features(i)
        moved = [now] if len(held) == 1 else [x + (now - before).to(x.dtype) for x in held]
        for entry, x in zip(self._entries, moved, strict=True):
            entry[i] = self._keep(x.detach())
        self.gram = {}
        self.let_go()

    def begin_fetch(self) -> None:
        """Begins to bring all that lies on the host; whoever reads it before :meth:`let_go` waits for that."""
        parked = [part for kept in self._kept() for part in kept if isinstance(part, Parked)]
        self._begun = self._begun or {id(part): self._backend.begin_fetch(part) for part in parked}

    def let_go(self) -> None:
        """Lets go of what was brought, or is on its way."""
        self._begun = {}

    def clear(self) -> None:
        self.times, self._beside = (), []
        self._entries.clear()
        self.let_go()

    def storages(self, parked: bool = True) -> dict[int, int]:
        """:func:`~c4d.core.runtime.outputs.storages` of all that is held; or of what is not ``parked`` on the host."""
        kept = [part for x in self._kept() for part in x if parked or not isinstance(part, Parked)]
        held = [part.tensor if isinstance(part, Parked) else part for part in kept]
        return storages([*held, *(fetching.tensor for fetching in self._begun.values())])

    def _kept(self) -> list[Kept]:
        return [x for entry in (*self._entries, self._beside) for x in entry]

    def _keep(self, x: Tensor) -> Kept:
        parts: tuple[Tensor, ...] = (x,)
        if self._storage.scaled:
            parts = quantized(x)
        elif self._storage.dtype is not None:
            parts = (x.to(self._storage.dtype),)
        if self._storage.place == "host":
            return tuple(self._backend.offload(part) for part in parts)
        return tuple(_alone(part) for part in parts)

    def _there(self, kept: Kept) -> Tensor:
        """On the compute device, as numbers that can be added up."""
        parts = [self._fetched(part) if isinstance(part, Parked) else part for part in kept]
        return widened(EightBits(*parts)) if self._storage.scaled else parts[0]

    def _fetched(self, parked: Parked) -> Tensor:
        begun = self._begun.get(id(parked))
        return self._backend.fetch(parked) if begun is None else begun.wait()


def _alone(x: Tensor) -> Tensor:
    """It, or a copy if it is a slice of more, which it would keep alive."""
    return x.clone(memory_format=torch.contiguous_format) if x.untyped_storage().nbytes() > x.nbytes else x
