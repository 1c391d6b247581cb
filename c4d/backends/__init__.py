"""The backend registry: names to classes, imported when asked for."""

from __future__ import annotations

from importlib import import_module

from c4d.backends.base import Backend, BackendUnavailable

# In the order in which "auto" prefers them.
BACKENDS = {"cuda": "c4d.backends.cuda:Cuda", "cpu": "c4d.backends.reference:Reference"}

__all__ = ["BACKENDS", "Backend", "BackendUnavailable", "load", "select"]


def load(name: str) -> Backend:
    """The backend of that name, whether it can run here or not; an unknown name is a ValueError."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: known are auto, {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


def select(name: str = "auto") -> Backend:
    """The named backend, or with ``"auto"`` the first that can run here.

    Raises :class:`BackendUnavailable`, saying what is missing, if the named one cannot.
    """
    if name == "auto":
        return next(backend for backend in map(load, BACKENDS) if backend.missing() is None)
    backend = load(name)
    if (missing := backend.missing()) is not None:
        raise BackendUnavailable(f"backend {name!r} cannot run here: {missing}")
    return backend
