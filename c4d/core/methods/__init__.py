"""The published methods, one paper a file: each is a function from its paper's parameters to a ``CacheMethod``."""

from __future__ import annotations

from collections.abc import Callable

from c4d.core.methods.first_block import first_block
from c4d.core.methods.fora import fora
from c4d.core.methods.schedule import schedule
from c4d.core.methods.taylorseer import taylorseer, taylorseer_lite
from c4d.core.methods.teacache import teacache
from c4d.core.types import CacheMethod

METHODS: dict[str, Callable[..., CacheMethod]] = {
    "fora": fora,
    "taylorseer": taylorseer,
    "taylorseer-lite": taylorseer_lite,
    "teacache": teacache,
    "first-block": first_block,
    "schedule": schedule,
}

__all__ = ["METHODS", "first_block", "fora", "schedule", "taylorseer", "taylorseer_lite", "teacache"]
