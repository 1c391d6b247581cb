"""The backend registry: names to classes, imported when asked for.

A backend of another package registers itself by an entry point of the group ``c4d.backends``; its value is a class
without arguments that has the members of :class:`Backend`.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import entry_points

import torch

from c4d.backends.base import Backend, BackendUnavailable, Memory
from c4d.backends.kernels import Unsupported

GROUP = "c4d.backends"
# In the order in which "auto" prefers them; those of other packages come between the accelerators and the host.
BACKENDS = {"cuda": "c4d.backends.cuda:Cuda", "cpu": "c4d.backends.reference:Reference"}

__all__ = ["Backend", "BackendUnavailable", "Memory", "Unsupported", "known", "load", "select"]


def known() -> dict[str, str]:
    """Name -> where its class is, ``"module:class"``, in the order in which "auto" prefers them."""
    theirs = {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in BACKENDS}
    *accelerators, host = BACKENDS.items()
    return dict([*accelerators, *sorted(theirs.items()), host])


def load(name: str) -> Backend:
    """The backend of that name, whether it can run here or not.

    Raises ValueError for an unknown name; :class:`BackendUnavailable` for one of another package that cannot be
    imported or is no backend.
    """
    if name in BACKENDS:
        return _made(BACKENDS[name])
    places = known()  # looks at every installed package, so not without need
    if name not in places:
        raise ValueError(f"unknown backend {name!r}: known are auto, {', '.join(places)}")
    try:
        backend = _made(places[name])
    except Exception as error:  # whatever a package of others raises
        reason = f"{type(error).__name__}: {error}"
        raise BackendUnavailable(f"backend {name!r} ({places[name]}) cannot be loaded: {reason}") from error
    members = [*Backend.__annotations__, *(name for name in vars(Backend) if not name.startswith("_"))]
    lacking = [member for member in members if not hasattr(backend, member)]
    if lacking:
        raise BackendUnavailable(f"backend {name!r} ({places[name]}) is incomplete: it lacks {', '.join(lacking)}")
    return backend


def select(name: str = "auto") -> Backend:
    """The named backend, or with ``"auto"`` the first that can run here.

    Raises :class:`BackendUnavailable`, saying what is missing, if the named one cannot. "auto" warns if it has to
    leave an accelerator unused that torch sees.
    """
    if name != "auto":
        backend = load(name)
        if (missing := backend.missing()) is not None:
            raise BackendUnavailable(f"backend {name!r} cannot run here: {missing}")
        return backend
    reasons: list[str] = []
    for each in known():
        try:
            return _seen(select(each), reasons)
        except BackendUnavailable as error:
            reasons.append(str(error))
    raise BackendUnavailable("; ".join(reasons))


def _made(place: str) -> Backend:
    module, _, attribute = place.partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


def _seen(backend: Backend, reasons: list[str]) -> Backend:
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None and backend.device_type == "cpu":
        warnings.warn(
            f"torch sees an accelerator ({found.type}), but c4d runs on the host: {'; '.join(reasons)}", stacklevel=3
        )
    return backend
