"""Packages that tests need and their environment must not have: in folders of their own, beside it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class NotHere(RuntimeError):
    """They cannot be had here; the message says why."""


@contextmanager
def kept_apart(site: Path, wheels: Sequence[str]) -> Iterator[None]:
    """``site`` has ``wheels``, without what they require, and no other process adds to it while the block lasts."""
    site.parent.mkdir(exist_ok=True)
    with open(site.parent / "lock", "w") as lock:  # two workers of one run come here
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (site / "installed").exists():
            _install(site, wheels)
        yield


def _install(site: Path, wheels: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    done = subprocess.run([*command, "--target", site, *wheels], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise NotHere(f"{wheels[0].replace('==', ' ')} cannot be installed: {said[-1]}")
    (site / "installed").touch()


def environment(before: Sequence[Path], after: Sequence[Path] = (), **settings: object) -> dict[str, str]:
    """Of a process that finds ``before`` and ``after`` around what this one is told to find, and is no test itself."""
    path = [*before, *filter(None, [os.environ.get("PYTHONPATH")]), *after]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "C4D_"))}
    return kept | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        **{name: str(value) for name, value in settings.items()},
    }


def fixture(what: str, prepared: Callable[[], Path], required: bool = False) -> Path:
    """What ``prepared()`` gives; the tests that want it are skipped, and that is told, or fail where it cannot be."""
    try:
        return prepared()
    except NotHere as why:
        said = f"{what} cannot run here: {why}"
        if required:
            pytest.fail(said, pytrace=False)
        warnings.warn(f"NOT TESTED: {said}", stacklevel=1)
        pytest.skip(str(why))


def main(what: str, prepared: Callable[[], Path], required: bool = False) -> None:
    """Says where it is, or why it cannot be had, in the words of :func:`fixture`."""
    try:
        print(f"{what}: {prepared()}")
    except NotHere as why:
        print(f"\n*** NOT TESTED: {what} cannot run here: {why}\n", file=sys.stderr)
        sys.exit(required)
