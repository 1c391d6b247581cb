"""Gets what the simulation needs: torch_npu in a folder of its own, and the stand-in for CANN beside it.

``python -m tests.ascend.install`` says where they are, or why they cannot be had here. torch_npu never goes into the
environment itself: without CANN it would break ``import torch`` there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from tests import apart
from tests.apart import ROOT, NotHere
from tests.ascend.sim.build import build

FOLDER = ROOT / ".venv-ascend"
VERSION = "2.13.0"  # of torch_npu, for the torch of the same number
WHAT = "the Ascend simulation"


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
    site = FOLDER / f"torch_npu-{VERSION}-{sys.implementation.cache_tag}"
    with apart.kept_apart(site, [f"torch_npu=={VERSION}"]):
        found = importlib.util.find_spec("torch")
        return build(Path(found.origin).parent, site / "torch_npu", site)


def environment(libraries: Path, simulate: bool = False, **settings: object) -> dict[str, str]:
    """Of a process that finds torch_npu and the stand-in; the dynamic loader reads it before the process starts.

    ``simulate``: Python programs are within the simulation from their start on, also those that they start
    (sim/site); C4D_SIM_FOLDER, on /dev/shm, is then for the caller to give where ranks meet.
    """
    site = [Path(__file__).parent / "sim" / "site"] if simulate else []
    usual: dict[str, object] = {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")])),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # the tests import torch_npu themselves
        "TASK_QUEUE_ENABLE": "0",  # an operator has been launched when its call returns
        "C4D_SIM_DEVICES": "2",
    }
    return apart.environment([*site, ROOT, libraries.parent], **(usual | settings))


def required() -> bool:
    """Whether it is an error, and not only said, that the simulation cannot run here."""
    return os.environ.get("C4D_REQUIRE_SIMULATION") == "1"


if __name__ == "__main__":
    apart.main(WHAT, prepared, required())
