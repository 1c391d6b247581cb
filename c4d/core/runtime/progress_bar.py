"""Where a denoising loop begins and ends: at its progress bar, which diffusers' pipelines put around it, or as said."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

from c4d.core.runtime.steps import SchedulerTracker, StepTracker


class Loops(Protocol):
    """Who is told of loops (the session)."""

    def begin_loop(self, loop: Loop) -> None: ...
    def end_loop(self, loop: Loop) -> None: ...
    def end_begun(self, clock: StepTracker) -> None: ...


class Loop:
    """One loop, in place of the ``tqdm`` bar that a pipeline made for it; what it does not do itself, that does."""

    def __init__(self, session: Loops, pipeline: Any, clock: SchedulerTracker, bar: Any) -> None:
        self._session, self.pipeline, self.clock, self._bar = session, pipeline, clock, bar

    def __enter__(self) -> Loop:
        self._bar = self._bar.__enter__()
        self._session.begin_loop(self)
        return self

    def update(self, n: float | None = 1) -> Any:
        """A step is done. A bar that is not shown counts nothing itself."""
        self.clock.moved()
        return self._bar.update(n)

    def __exit__(self, *exc: Any) -> Any:
        self._session.end_loop(self)
        return self._bar.__exit__(*exc)

    def __iter__(self) -> Iterator[Any]:
        self._session.begin_loop(self)
        try:
            yield from self._bar
        finally:
            self._session.end_loop(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


class Begun:
    """A loop of one's own that was begun; a ``with`` block around it says where it ends."""

    def __init__(self, session: Loops, clock: StepTracker) -> None:
        self._session, self._clock = session, clock

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        self._session.end_begun(self._clock)


class ProgressBar:
    """``pipeline.progress_bar`` for the time of a session; that of a copied or saved pipeline just makes bars."""

    def __init__(self, session: Loops, pipeline: Any, clock: SchedulerTracker) -> None:
        self._session: Loops | None = session
        self._clock: SchedulerTracker | None = clock
        self._pipeline = pipeline
        self._before = pipeline.__dict__.get("progress_bar")
        pipeline.__dict__["progress_bar"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        make = self._before or partial(type(self._pipeline).progress_bar, self._pipeline)
        bar = make(*args, **kwargs)
        if self._session is None or self._clock is None:
            return bar
        return Loop(self._session, self._pipeline, self._clock, bar)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None, "_clock": None}

    def remove(self) -> None:
        self._session, pipeline = None, self._pipeline
        if pipeline.__dict__.get("progress_bar") is self:
            del pipeline.__dict__["progress_bar"]
            if self._before is not None:
                pipeline.__dict__["progress_bar"] = self._before
