"""Gets what the simulation needs: torch_npu in a folder of its own, and the stand-in for CANN beside it.

``python -m tests.ascend.install`` says where they are, or why they cannot be had here. torch_npu never goes into the
environment itself: without CANN it would break ``import torch`` there.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.ascend.sim.build import build

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-ascend"
VERSION = "2.13.0"  # of torch_npu, for the torch of the same number


class NotHere(RuntimeError):
    """The simulation cannot run here; the message says why."""


def prepared() -> Path:
    """The folder of the stand-in's libraries, after whatever was missing was made."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotHere(f"it is built for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise NotHere(f"it runs with CPython 3.11 to 3.13, this is {platform.python_version()}")
    torch = importlib.metadata.version("torch").partition("+")[0]
    if torch != VERSION:
        raise NotHere(f"torch_npu {VERSION} is for torch {VERSION}, this is torch {torch}")
    if missing := [tool for tool in ("gcc", "nm", "readelf") if not shutil.which(tool)]:
        raise NotHere(f"there is no {' and no '.join(missing)} to build the stand-in for CANN")
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:  # two workers of one run come here
        fcntl.flock(lock, fcntl.LOCK_EX)
        site = FOLDER / f"torch_npu-{VERSION}-{sys.implementation.cache_tag}"
        if not (site / "installed").exists():
            install(site)
        found = importlib.util.find_spec("torch")
        return build(Path(found.origin).parent, site / "torch_npu", site)


def install(site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    done = subprocess.run([*command, "--target", site, f"torch_npu=={VERSION}"], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise NotHere(f"torch_npu {VERSION} cannot be installed: {said[-1]}")
    (site / "installed").touch()


def environment(libraries: Path, simulate: bool = False, **settings: object) -> dict[str, str]:
    """Of a process that finds torch_npu and the stand-in; the dynamic loader reads it before the process starts.

    ``simulate``: Python programs are within the simulation from their start on, also those that they start
    (sim/site); C4D_SIM_FOLDER, on /dev/shm, is then for the caller to give where ranks meet.
    """
    site = [Path(__file__).parent / "sim" / "site"] if simulate else []
    path = [*site, ROOT, libraries.parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "C4D_"))}
    return kept | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")])),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # the tests import torch_npu themselves
        "TASK_QUEUE_ENABLE": "0",  # an operator has been launched when its call returns
        "C4D_SIM_DEVICES": "2",
        **{name: str(value) for name, value in settings.items()},
    }


def required() -> bool:
    """Whether it is an error, and not only said, that the simulation cannot run here."""
    return os.environ.get("C4D_REQUIRE_SIMULATION") == "1"


if __name__ == "__main__":
    try:
        print(f"Ascend, simulated: {prepared()}")
    except NotHere as why:
        print(f"\n*** NOT TESTED: the Ascend simulation cannot run here: {why}\n", file=sys.stderr)
        sys.exit(required())
