"""What holds for a whole job, checked before any model is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from c4d.core.caching.rules import CacheMethod
from c4d.pipelines.errors import InputError
from c4d.pipelines.load import parse_dtype, parse_history_dtype
from c4d.pipelines.lora import Lora
from c4d.pipelines.modes import memory_mode

LEAST_FPS = 0.01  # the video writer keeps two decimals


@dataclass(frozen=True)
class Settings:
    """What holds for every prompt of a job; ``fps`` in frames a second, ``dtype`` of the weights.

    ``attention`` is the name of a kernel, "auto", or ``OWN``: the model's own code.
    With ``compare`` the uncached clip is made too, and one of fewer plain steps that cost what the cached one costs.
    ``repeats`` clips of each kind are timed. ``revision`` and ``variant`` say which files of the model,
    ``scheduler`` (a class of diffusers) and ``shift`` how its noise levels differ from its own.
    Raises :class:`InputError` for what contradicts itself or is out of range.
    """

    model: str
    backend: str
    dtype: str
    fps: float
    cache: CacheMethod | None = None
    attention: str = "auto"
    compile: bool = False
    compare: bool = False
    repeats: int = 1
    history_dtype: str | None = None
    history_on: str = "device"
    memory: str = "full"
    revision: str | None = None
    variant: str | None = None
    lora: tuple[Lora, ...] | None = None
    scheduler: str | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats!r}; allowed are whole numbers from 1")
        if not (math.isfinite(self.fps) and self.fps >= LEAST_FPS):
            raise InputError(f"fps is {self.fps!r}; allowed are finite numbers from {LEAST_FPS}")
        if self.history_on not in ("device", "host"):
            raise InputError(f"unknown place {self.history_on!r} for --history-on: known are device, host")
        parse_dtype(self.dtype)
        if self.compile and not memory_mode(self.memory).plain:
            raise InputError(
                f"--compile does not go with --memory {self.memory!r}, whose hooks no compiled block can hold: drop one"
            )
        if self.history_dtype is not None:
            parse_history_dtype(self.history_dtype)
        if self.cache is None:
            for option, given in (
                ("--compare", self.compare),
                ("--history-dtype", self.history_dtype is not None),
                ("--history-on host", self.history_on != "device"),
            ):
                if given:
                    raise InputError(f"{option} needs a method: add --cache TEXT (c4d methods lists them)")
        elif self.compile and self.cache.inside:
            raise InputError(
                f"--compile does not go with {self.cache.name!r}, which acts inside the blocks: add @blocks to the "
                "method, or drop --compile"
            )

    def of_model(self) -> dict[str, Any]:
        """What of ``revision``, ``variant``, ``lora``, ``scheduler`` and ``shift`` was asked for, in plain types."""
        lora = self.lora and [each.to_dict() for each in self.lora]
        said = {"revision": self.revision, "variant": self.variant, "lora": lora, "scheduler": self.scheduler}
        return {name: value for name, value in {**said, "shift": self.shift}.items() if value is not None}

    @property
    def warm_up(self) -> bool:
        """Whether an untimed round comes first: before a measurement, and to keep compilation out of the seconds."""
        return self.repeats > 1 or self.compile

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is generated; the cached clip comes first, so that one-time costs never flatter it."""
        if self.cache is None:
            return ("uncached",)
        return ("cached", "uncached", "fewer_steps") if self.compare else ("cached",)
