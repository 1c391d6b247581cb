"""The versions that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import c4d


def versions(*packages: str) -> dict[str, str]:
    """Of Python, c4d, torch (with the device it was built for) and ``packages`` ("missing": not there)."""
    found = {"python": platform.python_version(), "c4d": c4d.__version__, "torch": torch.__version__}
    for package in packages or ("diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found
