"""Ways of taking less of the device's memory, one a file: what diffusers has, by name, with its limits checked.

Those of other packages are here, too: entry points of the group ``c4d.memory_modes``.
"""

from __future__ import annotations

from typing import Any

from c4d.core.registry import Registry
from c4d.memory_modes.mode import Mode

MODES: Registry[Mode[Any]] = Registry("c4d.memory_modes", __name__, Mode, lambda found: found.name)

__all__ = ["MODES"]
