"""Imports xfuser where there is no device that it knows.

xfuser 0.7.0 asks for one while it is imported, to pick its modules; later on, for its name alone, and "cpu" will do.
So there is a ``torch.npu`` for the time of the import, which only says that it is available.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def device():
    import accelerate  # noqa: F401  they look for devices, too, and must not see this one
    import diffusers  # noqa: F401
    import torch
    import transformers  # noqa: F401

    stub = ModuleType("torch.npu")
    stub.is_available = lambda: True
    for name in ("set_device", "device_count", "manual_seed", "manual_seed_all", "empty_cache", "synchronize"):
        setattr(stub, name, lambda *args: None)
    torch.npu = sys.modules["torch.npu"] = stub
    try:
        yield
    finally:
        del torch.npu, sys.modules["torch.npu"]


def load(*modules: str) -> list[ModuleType]:
    with device():
        return [importlib.import_module(module) for module in modules]
