"""Caching, attention and ranks of one model as one thing, in a ``with`` block or from ``enable`` to ``disable``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from c4d.core.integration.hooks import Entered, Unsaved
from c4d.core.integration.processor_patch import AttentionSession
from c4d.core.runtime.progress_bar import Begun
from c4d.core.runtime.report import Entry, Report
from c4d.core.runtime.session import Session

ENABLED = "_c4d_enabled"  # on a transformer: the acceleration that is at work on it


class Acceleration(Entered, Unsaved):
    """What :func:`c4d.accelerate` gives: ``cache``, ``attention`` and ``ranks``, each None if it was not asked for.

    They are entered and left together. What it says of caching it says after its end too.
    """

    def __init__(
        self,
        transformers: Sequence[nn.Module],
        *,
        ranks: Any = None,
        attention: AttentionSession | None = None,
        cache: Session | None = None,
    ) -> None:
        self.ranks, self.attention, self.cache = ranks, attention, cache
        self._transformers = list(transformers)
        self._parts = [part for part in (ranks, attention, cache) if part is not None]
        self._entered: ExitStack | None = None
        for part in self._parts:
            part.unused = None  # this one says it for all
        self.unused = "c4d.accelerate"

    def __enter__(self) -> Acceleration:
        if self._entered is not None:
            raise RuntimeError("this is already at work: disable it first")
        self.unused = None
        with ExitStack() as entering:
            for part in self._parts:
                entering.enter_context(part)
            self._entered = entering.pop_all()
        for transformer in self._transformers:
            transformer.__dict__[ENABLED] = self
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._entered is None:
            return
        entered, self._entered = self._entered, None
        for transformer in self._transformers:
            transformer.__dict__.pop(ENABLED, None)
        entered.__exit__(*exc)

    def disable(self) -> None:
        """Ends it: the model is again what it was before. Does nothing if it has ended."""
        self.__exit__(None, None, None)

    # -- of the cache

    def begin(self, timesteps: Sequence[Any] | Tensor, sigmas: Sequence[float] | None = None) -> Begun:
        """:meth:`c4d.core.runtime.session.Session.begin`, for a denoising loop of one's own."""
        return self._caching().begin(timesteps, sigmas)

    def reset(self) -> None:
        """Frees what an unfinished run holds; the next forward opens a new run."""
        self._caching().reset()

    def report(self) -> Report:
        """The last run in numbers."""
        return self._caching().report()

    @property
    def trace(self) -> tuple[Entry, ...]:
        """The forwards of the last runs, oldest first."""
        return self._caching().trace

    def bytes(self) -> int:
        """Bytes held right now by histories and signals."""
        return self._caching().bytes()

    def lines(self) -> list[str]:
        """Plain sentences: how ranks are divided, and which attentions run through which kernel."""
        parts = [part for part in (self.ranks, self.attention) if part is not None]
        return [line for part in parts for line in part.lines()]

    def _caching(self) -> Session:
        if self.cache is None:
            raise RuntimeError("nothing is cached here: give c4d.accelerate or c4d.enable a method, cache=…")
        return self.cache


def enabled(transformer: nn.Module) -> Acceleration | None:
    """What is at work on it, None if nothing is that was made by :func:`c4d.accelerate`."""
    return transformer.__dict__.get(ENABLED)
