"""Gets xfuser and yunchang, in a folder of their own.

``python -m tests.xfuser.install`` says where they are, or why they cannot be had here. They never go into the
environment itself: these wheels bring top-level packages ``tests``, ``test``, ``docs`` and ``examples``, and a dozen
requirements of which the groups of ranks need four.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tests import apart
from tests.apart import ROOT, NotHere

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


def prepared() -> Path:
    """The folder for ``sys.path``, behind all others, after whatever was missing was made."""
    if missing := [name for name in TOO if find_spec(name) is None]:
        raise NotHere(f"import xfuser needs {' and '.join(missing)}, which this environment lacks")
    site = FOLDER / f"xfuser-{XFUSER}-yunchang-{YUNCHANG}"
    with apart.kept_apart(site, WHEELS):
        return site


def environment(site: Path) -> dict[str, str]:
    """Of a process that finds them, behind this checkout, whose ``tests`` has the name of one of theirs."""
    return apart.environment([ROOT], [site], OMP_NUM_THREADS=1)


if __name__ == "__main__":
    apart.main("xfuser", prepared)
