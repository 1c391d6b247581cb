"""Gets xfuser and yunchang, in a folder of their own.

``python -m tests.xfuser.install`` says where they are, or why they cannot be had here. They never go into the
environment itself: these wheels bring top-level packages ``tests``, ``test``, ``docs`` and ``examples``, and a dozen
requirements of which the groups of ranks need four.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-xfuser"
XFUSER, YUNCHANG = "0.7.0", "0.6.4"
# Without their requirements, which are listed as far as `import xfuser` meets them: 1.5 MB, no compiled code.
WHEELS = [
    f"xfuser=={XFUSER}",
    f"yunchang=={YUNCHANG}",
    "distvae==0.1.0",
    "beautifulsoup4",
    "soupsieve",
    "einops",
]
TOO = ("triton", "diffusers", "peft")  # of the test environment


class NotHere(RuntimeError):
    """They cannot be had here; the message says why."""


def prepared() -> Path:
    """The folder for ``sys.path``, behind all others, after whatever was missing was made."""
    if missing := [name for name in TOO if find_spec(name) is None]:
        raise NotHere(f"import xfuser needs {' and '.join(missing)}, which this environment lacks")
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:  # two workers of one run come here
        fcntl.flock(lock, fcntl.LOCK_EX)
        site = FOLDER / f"xfuser-{XFUSER}-yunchang-{YUNCHANG}"
        if not (site / "installed").exists():
            install(site)
    return site


def install(site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    done = subprocess.run([*command, "--target", site, *WHEELS], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise NotHere(f"xfuser {XFUSER} cannot be installed: {said[-1]}")
    (site / "installed").touch()


def environment(site: Path) -> dict[str, str]:
    """Of a process that finds them, behind this checkout, whose ``tests`` has the name of one of theirs."""
    path = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")]), site]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "C4D_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    try:
        print(f"xfuser: {prepared()}")
    except NotHere as why:
        print(f"\n*** NOT TESTED: xfuser cannot run here: {why}\n", file=sys.stderr)
