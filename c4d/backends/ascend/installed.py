"""What keeps torch_npu from running here. Importing it needs CANN's libraries, whatever device is asked for."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

PACKAGE = "torch_npu"
SETUP = "source /usr/local/Ascend/ascend-toolkit/set_env.sh (from CANN 8.5 on: /usr/local/Ascend/cann/set_env.sh)"


def trouble() -> str | None:
    """Why torch_npu cannot be imported, and the way out; None if it can. Imports it."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} is not installed (docs/ascend.md says which one)"
    try:
        import torch_npu  # noqa: F401 - registers the device
    except Exception as error:  # without CANN the loader's ImportError, with another torch anything
        said = " ".join(str(error).split())
        return f"{PACKAGE} {_version()} is installed, but cannot be loaded ({said}): {SETUP}"
    return None


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "of an unknown version"
