"""What is served, as the routes see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from c4d.pipelines import Request


class Model(Protocol):
    """``name`` as clients ask for it, ``fps`` of its clips in frames a second, ``texts``: what each field of a body is.

    ``films``: whether a request may say how many frames it wants, which are then ``temporal`` · k + 1. ``quality``
    is what a request has that does not say it, None where the server has a method of its own; ``seed`` likewise.
    """

    name: str
    fps: float
    texts: Mapping[str, str]
    films: bool
    temporal: int
    quality: str | None
    seed: int

    def request(self, values: Mapping[str, Any], image: Path | None) -> Request:
        """The request of a body's fields. Raises InputError for what this model cannot make."""
        ...

    def check_quality(self, quality: str | None) -> None:
        """Raises InputError where requests have no say in it."""
        ...
