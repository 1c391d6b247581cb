"""Imports that say why they fail: the reason often lies in a package that nobody asked for."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

EXTENSIONS = "torch.backends"  # who registers here is imported by torch, while torch itself is
INSTALL = "install c4d with its dependencies"


class CannotImportError(ImportError):
    """A package that c4d needs cannot be imported; the message says why, ``way_out`` what to do."""

    def __init__(self, package: str, error: Exception, install: str = INSTALL) -> None:
        self.reason = _reason(error)
        super().__init__(f"{package} cannot be imported: {self.reason}", name=package)
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        self.way_out = install if absent else "c4d doctor says more"


@contextmanager
def importing(package: str, install: str = INSTALL) -> Iterator[None]:
    """Turns whatever an import inside the block raises into :class:`CannotImportError`; ``install``: what to do where
    there is no such package."""
    try:
        yield
    except Exception as error:
        raise CannotImportError(package, error, install) from error


def _reason(error: Exception) -> str:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    first, last = (f"{type(each).__name__}: {' '.join(str(each).split())}" for each in (chain[0], chain[-1]))
    if (extension := _extension(chain)) is not None:
        return f"torch's extension {extension} cannot be loaded: {last}"
    return first if len(chain) == 1 else f"{first} ({last})"


def _extension(chain: list[BaseException]) -> str | None:
    """Name and version of the package that extends torch and that the errors came out of, if they did."""
    extensions = {re.split("[.:]", entry.value)[0].strip(): entry.dist for entry in entry_points(group=EXTENSIONS)}
    for error in chain:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = str(frame.f_globals.get("__name__")).partition(".")[0]
            if (owner := extensions.get(module)) is not None:
                return f"{owner.name} {owner.version}"
    return None
