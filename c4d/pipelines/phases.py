"""Where the seconds of a generation go, measured from outside: no line of a pipeline is touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from c4d.backends import Backend
from c4d.core.integration.hooks import Hooks, Layer
from c4d.pipelines.load import TRANSFORMERS


class Stopwatch:
    """Times one call of ``pipe`` inside its ``with`` block, with hooks on its transformers that leave with the block.

    The device is waited for at the borders of phases alone: before the first forward, after the last step, at the end.
    ``alone``: no other rank makes a part of the forwards, or lets this one wait in them. ``told``: of all calls so far,
    whether they were computed; a forward with both branches of guidance in one batch may be two (None: all were).
    """

    def __init__(
        self, pipe: Any, backend: Backend, alone: bool = True, told: Callable[[], Sequence[bool]] | None = None
    ) -> None:
        modules = [getattr(pipe, name, None) for name in TRANSFORMERS]
        self._transformers = [module for module in modules if isinstance(module, nn.Module)]
        self._backend = backend
        self._apart = alone and not backend.asynchronous
        self._hooks = Hooks(Layer.TIMING)
        self._told = told
        self._passes: list[float] = []
        self._before: list[int] = []  # calls that were told before each of them
        self._first: float | None = None
        self._last: float | None = None

    def __enter__(self) -> Stopwatch:
        for transformer in self._transformers:
            self._hooks.before(transformer, self._enter)
            self._hooks.after(transformer, self._leave)
        self._started = self._now()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.remove()
        self._ended = self._now()

    def denoised(self) -> None:
        """To be called after the last step."""
        self._last = self._now()

    @property
    def seconds(self) -> float:
        return self._ended - self._started

    def phases(self) -> dict[str, float]:
        """Seconds until the first forward ("preparing"), until the last step is done, and after it ("decoding").

        What lies between is "denoising"; or, where the host's clock tells, forwards "computed" and "reused", and what
        is "between" them.
        """
        first = self._ended if self._first is None else self._first
        last = max(first, self._ended if self._last is None else self._last)
        phases = {"preparing": first - self._started}
        if self._passes and self._apart:
            computed = self._computed()
            for kind, wanted in (("computed", True), ("reused", False)):
                each = zip(self._passes, computed, strict=True)
                phases[kind] = sum(seconds for seconds, was in each if was is wanted)
            phases["between"] = last - first - sum(self._passes)
        else:
            phases["denoising"] = last - first
        return {**phases, "decoding": self._ended - last}

    def _now(self) -> float:
        self._backend.synchronize()
        return time.perf_counter()

    def _enter(self, *_: Any) -> None:
        if self._first is None:
            self._first = self._now()
        if self._told is not None:
            self._before.append(len(self._told()))
        self._began = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self._passes.append(time.perf_counter() - self._began)

    def _computed(self) -> list[bool]:
        """Of each forward, whether any call in it was computed."""
        if self._told is None:
            return [True] * len(self._passes)
        told = self._told()
        return [any(told[a:b]) for a, b in pairwise([*self._before, len(told)])]
