"""The published methods, one paper a file: each is a function from its paper's options to rules.

``c4d.methods.fora(interval=3)`` makes one; so does the text ``"fora:interval=3"``. Those of other packages are here,
too: entry points of the group ``c4d.methods``.
"""

from __future__ import annotations

from typing import Any

from c4d.core.caching.method import Method
from c4d.core.methods.published import published
from c4d.core.registry import Registry

METHODS: Registry[Method[Any]] = Registry("c4d.methods", __name__, Method, lambda found: found.name)

__all__ = ["METHODS", "published"]
