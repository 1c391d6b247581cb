"""With C4D_TEST_DEVICE=1 only what runs on the real device: the matrix of primitives and attention."""

from __future__ import annotations

from tests.backends.guard import DEVICE


def pytest_collection_modifyitems(config, items):
    if DEVICE is None:
        return
    there = [item for item in items if "device" in getattr(getattr(item, "callspec", None), "id", "")]
    config.hook.pytest_deselected(items=[item for item in items if item not in there])
    items[:] = there
