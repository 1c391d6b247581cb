"""A job: one request, where it stands, and the folder that it fills."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from c4d.pipelines import Request

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "in_progress", "completed", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
REFERENCE = "reference.png"  # the picture that a request came with, in the folder of its job
LIVE = ("request", "folder", "cancelling")  # fields that a job's file does not have as they are


@dataclass(eq=False)
class Job:
    """``created``, ``begun`` and ``ended`` in seconds since 1970; ``attempts``: how often it was begun.

    ``error`` says in a line why it failed, ``code`` in a word.
    ``quality`` is None where the server has a method of its own. ``files``: what it left in its folder.
    ``forwards``: of each step of this attempt, whether it was computed, ``of`` how many steps.
    """

    id: str
    request: Request
    folder: Path
    created: float
    quality: str | None = None
    status: str = QUEUED
    begun: float | None = None
    ended: float | None = None
    attempts: int = 0
    error: str | None = None
    code: str | None = None
    files: list[str] = field(default_factory=list)
    forwards: list[bool] = field(default_factory=list)
    of: int | None = None
    cancelling: bool = False

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.status in ENDED

    def tell(self) -> None:
        """Wakes all who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change; one that was taken before a look at the job misses none."""
        return self._changed

    async def end(self) -> None:
        """Returns when the job is over."""
        while not self.over:
            await self._changed.wait()

    def progress(self) -> int:
        """Percent of the steps that are done."""
        if self.status == DONE:
            return 100
        return 100 * len(self.forwards) // self.of if self.of else 0

    def same(self, request: Request, quality: str | None) -> bool:
        """Whether it was made of this request."""
        return self.quality == quality and self.request.to_dict() == request.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the job's file; :meth:`read` is the inverse."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in LIVE}
        return {**told, "request": {**asdict(self.request), "image": self.request.image and REFERENCE}}

    @classmethod
    def read(cls, told: dict[str, Any], folder: Path) -> Job:
        """Raises KeyError, TypeError or ValueError for what :meth:`to_dict` did not write."""
        request = dict(told["request"])
        if request["image"] is not None:
            request["image"] = folder / REFERENCE
        return cls(**{**told, "request": Request(**request)}, folder=folder)
