"""Which run, which step: read from the scheduler, never patched into it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from c4d.core.types import Step

Reading = Callable[[float, float], float]
READINGS: tuple[
    Reading, ...
] = (  # from what a transformer is given, and how many timesteps there are, to the scheduler's
    lambda t, of_all: t,
    lambda t, of_all: t * of_all,
    lambda t, of_all: of_all - t,
    lambda t, of_all: (1.0 - t) * of_all,
)
WAYS_OUT = (
    "If another pipeline over the same transformer makes it, give all of them: c4d.cached([one, other], method). In a "
    "loop of your own call set_timesteps before it and step in it, or session.begin(timesteps) before each generation, "
    'and name the calls of one step: with transformer.cache_context("cond")'
)


class RunError(RuntimeError):
    """A forward that belongs to no run, or that a run cannot place."""


class NoiseLevel(NamedTuple):
    """How much of the data (``signal``) and of the noise is in the latents of a step; flow models: 1 - sigma, sigma."""

    signal: float
    noise: float


class StepTracker(Protocol):
    def fresh(self) -> bool:
        """True if the next forward opens a run."""
        ...

    def tick(self, name: str | None, timestep: Any, expert: int = 0) -> tuple[bool, Step]:
        """Places one forward, named by ``cache_context`` or not; ``timestep`` is its argument of that name.

        Returns whether it opens a run, and its step; the total is that of the run so far as it is known.
        """
        ...

    def noise(self) -> NoiseLevel:
        """Of the forward that was placed last; the first question of a run reads the scheduler's tables once."""
        ...

    def timestep(self) -> float:
        """Of the forward that was placed last, read in the same way."""
        ...

    def levels(self, total: int) -> tuple[float, ...]:
        """The noise of each of the run's ``total`` steps, read in the same way."""
        ...

    def noise_on_host(self) -> float | None:
        """The noise of the forward that was placed last; None where the host would have to wait, or nobody knows it."""
        ...


class SchedulerTracker:
    """Follows a diffusers scheduler.

    ``scheduler.timesteps`` is a new object after every ``set_timesteps`` and stays the same one during a run, so a new
    object (or an index that went back) opens a run. The step is ``step_index`` (before the first ``step()``:
    ``begin_index``, else 0) less the run's first; schedulers without it (DDIM) count forwards per branch.
    Calls without a name are told apart by their ordinal within the step, and so are calls that share one; without
    ``step_index`` they cannot be, and one forward too many is an error. ``boundary``: where the second expert begins.
    """

    def __init__(
        self,
        scheduler: Callable[[], Any],
        boundary: Callable[[], float | None] = lambda: None,
        checked: bool = True,
    ) -> None:
        self._checked = checked  # whether a forward of another scheduler is an error
        self._scheduler, self._boundary = scheduler, boundary  # as a part of all training timesteps
        self._early: int | None = None  # how many of its timesteps are the first expert's
        self._timesteps: Any = None  # held, so that its identity cannot be taken over by a newer object
        self._looped = self._over = False  # in a pipeline's loop; the loop that these timesteps were made for has ended
        self._readings: tuple[Reading, ...] | None = None  # those by which every timestep so far was the scheduler's
        self._at: Any = None  # the timestep of the first call in this step
        self._often: Counter[str | None] = Counter()  # calls by name in the first step
        self._moved = False  # the loop has told of a step since the first call in this one
        self._raw = 0
        self._levels: list[NoiseLevel] = []  # of all its timesteps, when somebody asked
        self._values: list[float] = []  # they themselves, likewise
        self._noise: list[float] | None = None  # theirs, if the host has it; None: not looked up in this run
        self._first: int | None = None  # None until the scheduler has said where the run began
        self._count: CountingTracker
        self._calls: Counter[str | None] = Counter()

    @property
    def tells_steps(self) -> bool:
        """True if the scheduler counts its steps, False if forwards have to be counted."""
        return hasattr(self._scheduler(), "step_index")

    def begin(self) -> None:
        """A loop begins, whether its timesteps are new or not."""
        self._timesteps, self._looped, self._over = None, True, False

    def moved(self) -> None:
        """The loop says that a step is done, which the scheduler that made it knows."""
        self._moved = True

    def end(self) -> None:
        """The loop has ended: what comes is of new timesteps, or not of this scheduler."""
        self._looped, self._over = False, self._timesteps is not None

    def fresh(self) -> bool:
        scheduler = self._scheduler()
        return getattr(scheduler, "timesteps", None) is not self._timesteps or position(scheduler) < self._raw

    def tick(self, name: str | None, timestep: Any, expert: int = 0) -> tuple[bool, Step]:
        scheduler = self._scheduler()
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is None:
            raise RunError(
                f"{type(scheduler).__name__} has no timesteps yet: call set_timesteps before the first forward"
            )
        new = self.fresh()
        ended = hasattr(scheduler, "step_index") and position(scheduler) >= len(timesteps)
        if self._checked and ((self._over and not new) or ended):
            raise RunError(
                "this forward belongs to no run: the denoising loop of the scheduler that is followed "
                f"({type(scheduler).__name__}) has ended. {WAYS_OUT}"
            )
        self._over = False
        if new:
            self._readings = None
        if hasattr(scheduler, "step_index"):
            placed = self._by_index(scheduler, name, timestep, expert)
        else:
            placed = self._by_count(timesteps, name, timestep, expert)
        if self._checked:
            self._compare(timesteps, timestep)
        return placed

    def _compare(self, timesteps: Any, timestep: Any) -> None:
        """Raises unless a forward's timestep, if the host has it, is the one that the scheduler stands at.

        How a pipeline hands it over is not known (as it is, as a part of all, counted from the other end): what fits
        has to go on to fit. Numbers may be those of bf16, and whole ones.
        """
        of_all = getattr(getattr(self._scheduler(), "config", None), "num_train_timesteps", None) or 1000
        if (given := on_host(timestep)) is None or (there := on_host(timesteps[self._raw])) is None:
            return
        fits = tuple(
            reading
            for reading in (READINGS if self._readings is None else self._readings)
            if abs(reading(given, of_all) - there) <= of_all / 1000 + abs(there) / 128
        )
        if self._readings and not fits:
            self._readings, self._over = None, True
            raise RunError(
                f"this forward's timestep is {given:g}, and the scheduler that is followed "
                f"({type(self._scheduler()).__name__}) stands at {there:g}: it does not drive this forward, or a call "
                f"of this step has no name. {WAYS_OUT}"
            )
        self._readings = fits

    def _repeated(self, name: str | None, timestep: Any, first: bool) -> None:
        """Raises if a second call of one name in one step is in truth the next step's; the ``first`` step shows how
        many there are."""
        if first:
            self._often[name] += 1
            same = self._looped or _equal(self._at, timestep)  # waits for the device, in an own loop's first step
        else:
            same = name is None or self._calls[name] <= self._often[name]
        if not same or self._moved:
            self._over = True
            raise RunError(
                f"{'an unnamed call' if name is None else f'a call of {name!r}'} too many: the scheduler that is "
                f"followed ({type(self._scheduler()).__name__}) has not moved since the last one, so it does not drive "
                f"this forward. {WAYS_OUT}"
            )

    def noise(self) -> NoiseLevel:
        self._levels = self._levels or noise_levels(self._scheduler())
        return self._levels[self._raw]

    def timestep(self) -> float:
        self._values = self._values or [float(t) for t in self._scheduler().timesteps.tolist()]
        return self._values[self._raw]

    def levels(self, total: int) -> tuple[float, ...]:
        scheduler = self._scheduler()
        self._levels = self._levels or noise_levels(scheduler)
        return tuple(level.noise for level in self._levels[: len(scheduler.timesteps)][-total:])

    def noise_on_host(self) -> float | None:
        if self._noise is None:
            self._noise = noise_known(self._scheduler())
        return self._noise[self._raw] if self._raw < len(self._noise) else None

    def _by_index(self, scheduler: Any, name: str | None, timestep: Any, expert: int) -> tuple[bool, Step]:
        new, raw, known = self.fresh(), position(scheduler), scheduler.step_index
        if new:
            told = known is not None or getattr(scheduler, "begin_index", None) is not None
            self._timesteps, self._first = scheduler.timesteps, raw if told else None
            self._levels, self._values, self._noise = [], [], None
            self._early = self._split(scheduler)
            self._often.clear()
        elif self._first is None and known is not None:
            self._first = known - 1  # the scheduler has made one step since the first forward
        if new or raw != self._raw:
            self._raw, self._at, self._moved = raw, timestep, False
            self._calls.clear()
        ordinal = self._calls[name]
        self._calls[name] += 1
        first = self._first if self._first is not None else raw
        if ordinal and self._checked:
            self._repeated(name, timestep, raw == first)
        elif raw == first:
            self._often[name] = 1
        total, span = len(scheduler.timesteps) - first, None
        if self._early is not None:
            early = max(0, self._early - first)
            span = (0, early) if expert == 0 else (early, total)
        return new, Step(raw - first, total, _branch(name, ordinal), expert, span)

    def _split(self, scheduler: Any) -> int | None:
        boundary = self._boundary()
        if boundary is None:
            return None
        least = boundary * scheduler.config.num_train_timesteps
        return len([t for t in scheduler.timesteps.tolist() if t >= least])

    def _by_count(self, timesteps: Any, name: str | None, timestep: Any, expert: int) -> tuple[bool, Step]:
        if timesteps is not self._timesteps:
            self._timesteps, self._start = timesteps, _find(timesteps, timestep)
            self._levels, self._values, self._noise = [], [], None
            way_out = "this scheduler has no step_index, so call its set_timesteps"
            self._count = CountingTracker(timesteps[self._start :], way_out)
        new, step = self._count.tick(name, timestep, expert)
        self._raw = self._start + step.index
        return new, step


class CountingTracker:
    """One run over ``timesteps``, known by its forwards alone: the index of one is their number on its branch."""

    def __init__(self, timesteps: Sequence[Any] | Tensor, way_out: str, sigmas: Sequence[float] | None = None) -> None:
        self._timesteps, self._way_out, self._sigmas = timesteps, way_out, sigmas
        self._total = total = len(timesteps)
        self._calls, self._opened, self._index = Counter[str | None](), False, 0
        self._last: dict[str | None, float] = {}  # timestep on each branch, where the host has it
        self._rising: bool | None = None
        if total == 0:
            raise ValueError("a run needs at least one timestep")
        if sigmas is not None and len(sigmas) < total:
            raise ValueError(f"{len(sigmas)} sigmas for {total} timesteps; give one a step")

    def fresh(self) -> bool:
        return not self._opened

    def tick(self, name: str | None, timestep: Any, expert: int = 0) -> tuple[bool, Step]:
        new, self._opened = not self._opened, True
        index = self._calls[name]
        if index >= self._total:
            raise RunError(
                f"forward {index + 1} of branch {_branch(name, 0)!r} in a run of {self._total} steps: {self._way_out} "
                "before every generation, and name the calls of one step "
                '(with transformer.cache_context("cond"): ...) if there are several'
            )
        if (now := on_host(timestep)) is not None:
            self._follow(name, now)
        self._calls[name] += 1
        self._index = index
        return new, Step(index, self._total, _branch(name, 0), expert)

    def _follow(self, name: str | None, now: float) -> None:
        """Raises if timesteps, however they count, turn back: then another loop has begun."""
        before = self._last.get(name, now)
        if now != before:
            if self._rising is not None and self._rising != (now > before):
                raise RunError(
                    f"timesteps turn back, from {before:g} to {now:g} on branch {_branch(name, 0)!r}, in the middle of "
                    f"a run of {self._total} steps: {self._way_out} before every generation and before every chunk of "
                    "one, and name the calls of one step"
                )
            self._rising = now > before
        self._last[name] = now

    def noise(self) -> NoiseLevel:
        if self._sigmas is None:
            raise RunError("this method needs noise levels: call session.begin(timesteps, sigmas=…) before the loop")
        return levels([float(sigma) for sigma in self._sigmas])[self._index]

    def timestep(self) -> float:
        return float(self._timesteps[self._index])

    def levels(self, total: int) -> tuple[float, ...]:
        self.noise()  # raises where there are none
        return tuple(level.noise for level in levels([float(sigma) for sigma in self._sigmas or ()])[:total])

    def noise_on_host(self) -> float | None:
        return None if self._sigmas is None else self.noise().noise


class NoClock:
    """Of a bare transformer before ``begin``."""

    def fresh(self) -> bool:
        return True

    def noise(self) -> NoiseLevel:
        raise RunError("no forward was placed yet")

    def timestep(self) -> float:
        raise RunError("no forward was placed yet")

    def levels(self, total: int) -> tuple[float, ...]:
        raise RunError("no forward was placed yet")

    def noise_on_host(self) -> float | None:
        return None

    def tick(self, name: str | None, timestep: Any, expert: int = 0) -> tuple[bool, Step]:
        raise RunError(
            "no run to be found for this forward: pass the pipeline to c4d.cached, or its scheduler "
            "(c4d.cached(transformer, method, scheduler=scheduler)), or call session.begin(timesteps) before the loop"
        )


def position(scheduler: Any) -> int:
    """The scheduler's index of the step that comes, counted from the first of its timesteps."""
    known = getattr(scheduler, "step_index", None)
    return known if known is not None else (getattr(scheduler, "begin_index", None) or 0)


def noise_levels(scheduler: Any) -> list[NoiseLevel]:
    """Of each of the scheduler's timesteps, from its ``sigmas`` or its ``alphas_cumprod``; one host read.

    Raises :class:`RunError` for a scheduler that has neither.
    """
    if isinstance(sigmas := getattr(scheduler, "sigmas", None), Tensor):
        return levels(sigmas.tolist())
    if isinstance(table := getattr(scheduler, "alphas_cumprod", None), Tensor):
        kept = table[scheduler.timesteps.long().to(table.device)].tolist()
        return [NoiseLevel(math.sqrt(alpha), math.sqrt(1.0 - alpha)) for alpha in kept]
    raise RunError(
        f"this method needs noise levels, and {type(scheduler).__name__} has neither sigmas nor alphas_cumprod"
    )


def noise_known(scheduler: Any) -> list[float]:
    """The noise of each of the scheduler's timesteps if its tables are on the host; empty if not, or if it has none.

    It only explains a run, so tables that make no sense (of a scheduler that nobody here knows) are none.
    """
    names = ("sigmas",) if isinstance(getattr(scheduler, "sigmas", None), Tensor) else ("alphas_cumprod", "timesteps")
    tables = [getattr(scheduler, name, None) for name in names]
    if any(isinstance(table, Tensor) and table.device.type != "cpu" for table in tables):
        return []
    try:
        return [level.noise for level in noise_levels(scheduler)]
    except (RunError, ValueError, IndexError):
        return []


def levels(sigmas: Sequence[float]) -> list[NoiseLevel]:
    """Flow models count sigma from 0 to 1; others as noise over signal, at first far beyond it."""
    if max(sigmas) <= 1.0:
        return [NoiseLevel(1.0 - sigma, sigma) for sigma in sigmas]
    signals = [1.0 / math.sqrt(1.0 + sigma * sigma) for sigma in sigmas]
    return [NoiseLevel(signal, sigma * signal) for signal, sigma in zip(signals, sigmas, strict=True)]


def check_order(timesteps: Sequence[Any] | Tensor) -> None:
    """Raises TypeError for what are no timesteps, ValueError for those of more than one loop; one host read."""
    try:
        values = timesteps.tolist() if isinstance(timesteps, Tensor) else [float(t) for t in timesteps]
        pairwise(values)
    except (TypeError, ValueError):
        raise TypeError(
            f"timesteps is {timesteps!r}; give all of a run, one number a step: scheduler.timesteps, or range(steps)"
        ) from None
    moves = [(k, after > before) for k, (before, after) in enumerate(pairwise(values)) if before != after]
    turn = next((k for k, rising in moves if rising != moves[0][1]), None)
    if turn is not None:
        raise ValueError(
            f"timesteps turn back: {values[turn]:g} is followed by {values[turn + 1]:g} at step {turn + 1}. A run is "
            "one denoising loop: call session.begin with its own timesteps before each, also before each chunk of a "
            "video"
        )


def _branch(name: str | None, ordinal: int) -> str:
    if name is None:
        return str(ordinal)
    return name if ordinal == 0 else f"{name}#{ordinal}"


def on_host(timestep: Any) -> float | None:
    """The number itself; of a tensor its largest (a given frame's is 0), None if the host would have to wait for it."""
    if isinstance(timestep, Tensor):
        return float(timestep.max()) if timestep.device.type == "cpu" and timestep.numel() else None
    return float(timestep) if isinstance(timestep, int | float) else None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or bool(one.max() == other.max())
    return isinstance(one, Tensor) or isinstance(other, Tensor) or bool(one == other)


def _find(timesteps: Any, timestep: Any) -> int:
    """Where a run without ``step_index`` starts in its timesteps (0 unless ``strength`` cut them); one host read."""
    if not isinstance(timestep, Tensor):
        return 0
    hits = (timesteps == timestep.max().to(timesteps.device)).nonzero()
    return int(hits[0]) if len(hits) else 0
