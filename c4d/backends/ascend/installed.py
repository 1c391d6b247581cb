"""What keeps torch_npu from running here. Importing it needs CANN's libraries, whatever device is asked for; torch and
diffusers import it wherever it is installed, and cannot be imported themselves where that fails."""

from __future__ import annotations

import importlib.util
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGE = "torch_npu"
SETUP = "set_env.sh"
PLACES = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit")  # from CANN 8.5 on, and before


def trouble() -> str | None:
    """Why torch_npu cannot be imported, and the ways out; None if it can. Imports it."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} is not installed (docs/ascend.md says which one)"
    try:
        import torch_npu  # noqa: F401 - registers the device
    except Exception as error:  # without CANN the loader's ImportError, with another torch anything
        return _explained(" ".join(str(error).split()))
    return None


def _explained(said: str) -> str:
    installed, wanted, present = _version(), _release(_version()), _release(torch.__version__)
    causes, repairs = [], []
    if (other := _other_accelerator()) is not None:
        causes.append(f"it takes only a CPU build of torch, and torch {torch.__version__} is built for {other}")
        repairs.append(f"pip install torch=={present} --index-url https://download.pytorch.org/whl/cpu")
    if wanted is not None and wanted != present:
        causes.append(f"{PACKAGE} {installed} needs exactly torch {wanted}, and this is torch {torch.__version__}")
        repairs.append(f"pip install '{PACKAGE}=={present}.*'")
    if not causes or "shared object" in said:  # the loader did not find a library
        repairs.append(_setup())
    why = "; ".join([f"{PACKAGE} {installed} is installed, but cannot be loaded ({said})", *causes])
    return (
        f"{why}. If this machine has an NPU: {', and '.join(repairs)}. If it has none: pip uninstall {PACKAGE}, since "
        "import torch and diffusers fail as long as it is there"
    )


def _other_accelerator() -> str | None:
    """What torch was built for, if that is neither the host alone nor what torch_npu registers."""
    built_for = torch.accelerator.current_accelerator()
    return None if built_for is None or built_for.type in ("npu", "privateuseone") else built_for.type


def _setup() -> str:
    """How CANN's libraries are made known to the loader: by the script of this machine if it has one."""
    home = os.environ.get("ASCEND_HOME_PATH")
    folders = [*((Path(home), Path(home).parent) if home else ()), *map(Path, PLACES)]
    for folder in folders:
        if (folder / SETUP).is_file():
            return f"source {folder / SETUP}"
    return f"install CANN and source its {SETUP} ({' or, before CANN 8.5, '.join(f'{p}/{SETUP}' for p in PLACES)})"


def _release(text: str) -> str | None:
    """The three numbers of a version that torch and torch_npu have to share."""
    found = re.match(r"\d+\.\d+\.\d+", text)
    return found and found[0]


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "of an unknown version"
