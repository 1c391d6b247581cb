"""Gets ComfyUI's own engine, in a folder of its own.

``python -m tests.comfyui.install`` says where it is, or why it cannot be had here. ComfyUI is no package of PyPI; its
code as it was on November 25th 2024 is there as ``notcomfy``. It goes into no environment, for it brings top-level
packages ``tests``, ``utils``, ``app`` and others. With SciPy it takes 150 MB on the disk, so that it is for ``make
nightly`` and ``make test-comfyui`` alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests import apart
from tests.apart import ROOT

FOLDER = ROOT / ".venv-comfyui"
WHAT = "ComfyUI's engine"
# Without their requirements, which are listed as far as the engine imports them.
WHEELS = ["notcomfy==0.1.0", "torchsde==0.2.6", "trampoline==0.1.2", "einops", "scipy"]


def prepared() -> Path:
    """The folder for ``sys.path``, behind all others, after whatever was missing was made."""
    site = FOLDER / WHEELS[0].replace("==", "-")
    with apart.kept_apart(site, WHEELS):
        return site


def environment(site: Path) -> dict[str, str]:
    """Of a process that finds it, behind this checkout, whose ``tests`` has the name of one of theirs."""
    return apart.environment([ROOT], [site], C4D_INSIDE_COMFYUI=1, OMP_NUM_THREADS=1)


def required() -> bool:
    """Whether it is an error, and not only said, that it is not there."""
    return os.environ.get("C4D_REQUIRE_COMFYUI") == "1"


if __name__ == "__main__":
    apart.main(WHAT, prepared, required())
