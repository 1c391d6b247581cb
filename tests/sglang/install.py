"""Gets SGLang's own code, in a folder of its own.

``python -m tests.sglang.install`` says where it is, or why it cannot be had here. Its wheel is 39 MB
(220 on the disk), and what it requires is of CUDA, so that it is for ``make nightly`` alone, without its requirements:
tests load the few files that a plugin meets, and stubs stand for the others (``runtime.py``).
"""

from __future__ import annotations

from pathlib import Path

from c4d.sglang.denoising import VERSION
from tests import apart
from tests.apart import ROOT

FOLDER = ROOT / ".venv-sglang"
WHAT = "SGLang's denoising loop"
WHEELS = [f"sglang=={VERSION}"]


def prepared() -> Path:
    """The folder in which its package lies, after whatever was missing was made."""
    site = FOLDER / WHEELS[0].replace("==", "-")
    with apart.kept_apart(site, WHEELS):
        return site


if __name__ == "__main__":
    apart.main(WHAT, prepared)
