"""The backend registry: names to classes, imported when asked for.

A backend of another package registers itself by an entry point of the group ``c4d.backends``; its value is a class
without arguments that has the members of :class:`Backend`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

import torch

from c4d.backends.base import Backend, BackendUnavailableError, Memory
from c4d.backends.kernels import OWN, Kernel, UnsupportedError

GROUP = "c4d.backends"
AUTO = "auto"
# In the order in which "auto" prefers them; those of other packages come between the accelerators and the host.
BACKENDS = {
    "cuda": "c4d.backends.cuda:Cuda",
    "ascend": "c4d.backends.ascend:Ascend",
    "cpu": "c4d.backends.reference:Reference",
}

__all__ = ["Backend", "BackendUnavailableError", "Memory", "UnsupportedError", "known", "load", "missing", "select"]


def known() -> dict[str, str]:
    """Name -> where its class is, ``"module:class"``, in the order in which "auto" prefers them."""
    theirs = {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in (AUTO, *BACKENDS)}
    *accelerators, host = BACKENDS.items()
    return dict([*accelerators, *sorted(theirs.items()), host])


def taken() -> dict[str, str]:
    """Entry points that are ignored, since their names have a meaning here: name -> where its class is."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name in (AUTO, *BACKENDS)}


def load(name: str) -> Backend:
    """The backend of that name, whether it can run here or not.

    Raises ValueError for an unknown name; :class:`BackendUnavailableError` for one of another package that cannot be
    imported or is no backend.
    """
    if name in BACKENDS:
        return _made(BACKENDS[name])
    places = known()  # looks at every installed package, so not without need
    if name not in places:
        raise ValueError(f"unknown backend {name!r}: known are {AUTO}, {', '.join(places)}")
    place = f"backend {name!r} ({places[name]})"
    try:
        backend = _made(places[name])
        wrong = _wrong(name, backend)
    except (Exception, SystemExit) as error:  # whatever a package of others raises
        raise BackendUnavailableError(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
    if wrong is not None:
        raise BackendUnavailableError(f"{place} is no backend: {wrong}")
    return backend


def missing(backend: Backend) -> str | None:
    """What keeps ``backend`` from running here, also if asking it fails; None if nothing does."""
    try:
        said = backend.missing()
    except Exception as error:  # one of another package may raise what it likes
        return f"it cannot say whether it can run: {type(error).__name__}: {error}"
    if said is None or (isinstance(said, str) and said):
        return said
    return f"it cannot say whether it can run: missing() gave {said!r} instead of a text or None"


def select(name: str = AUTO) -> Backend:
    """The named backend, or with ``"auto"`` the first that can run here.

    Raises :class:`BackendUnavailableError`, saying what is missing, if the named one cannot. "auto" never takes a
    backend of another package that runs on the host, and warns if an accelerator that torch sees stays unused.
    """
    if name != AUTO:
        backend = load(name)
        if (reason := missing(backend)) is not None:
            raise BackendUnavailableError(f"backend {name!r} cannot run here: {reason}")
        return backend
    reasons: list[str] = []
    for each in known():
        try:
            backend = select(each)
        except BackendUnavailableError as error:
            reasons.append(str(error))
            continue
        if each in BACKENDS or backend.device_type != "cpu":
            return _seen(backend, reasons)
    raise BackendUnavailableError("; ".join(reasons))


def _made(place: str) -> Backend:
    module, _, attribute = place.partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


def _wrong(name: str, backend: Backend) -> str | None:
    """What of a backend of another package is not as the protocol says."""
    members = [*Backend.__annotations__, *(member for member in vars(Backend) if not member.startswith("_"))]
    if lacking := [member for member in members if not hasattr(backend, member)]:
        return f"it lacks {', '.join(lacking)}"
    if backend.name != name:
        return f"its name is {backend.name!r}; it has to be that of its entry point"
    torch.device(backend.device_type)
    dtypes, default = backend.dtypes, backend.default_dtype
    if default not in dtypes or not all(isinstance(dtype, torch.dtype) for dtype in dtypes):
        return f"its dtypes {dtypes!r} have to be torch dtypes, its default_dtype {default!r} among them"
    kernels = backend.attention_kernels
    if not isinstance(kernels, Mapping) or not all(isinstance(kernel, Kernel) for kernel in kernels.values()):
        return "its attention_kernels have to map names to c4d.backends.kernels.Kernel"
    if not kernels or (meant := {AUTO, OWN} & set(kernels)):
        return "it has no attention kernel" if not kernels else f"a kernel cannot be named {', '.join(sorted(meant))}"
    return None


def _seen(backend: Backend, reasons: list[str]) -> Backend:
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None and backend.device_type == "cpu":
        warnings.warn(
            f"torch sees an accelerator ({found.type}), but c4d runs on the host: {'; '.join(reasons)}", stacklevel=3
        )
    return backend
