"""Calibration data of published methods as files: ``c4d calibrate`` writes them, the methods read them."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c4d.core.caching.curves import Curve
from c4d.core.caching.policies import MadeFor
from c4d.core.caching.profile import ProfileError
from c4d.core.types import Policy

FORMAT, VERSION = "c4d calibration", 1


@dataclass(frozen=True)
class CalibrationData:
    """What was calibrated for ``method``: its ``data``, and the ``figures`` of how good they are; plain types only.

    ``made_for``: the transformer (:func:`c4d.core.integration.transformers.signature`), None for any. ``about``: how
    and with what it was made.
    """

    method: str
    data: Mapping[str, Any]
    made_for: Mapping[str, Any] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        made_for = None if self.made_for is None else dict(self.made_for)
        head = {"format": FORMAT, "version": VERSION, "method": self.method, "made_for": made_for}
        return {**head, "about": dict(self.about), "figures": dict(self.figures), "data": dict(self.data)}

    @classmethod
    def from_dict(cls, found: Any) -> CalibrationData:
        """Raises :class:`ProfileError` for anything but what :meth:`to_dict` gives."""
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            said = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise ProfileError(f"it is no calibration (its format is {said!r}); c4d calibrate makes one")
        if found.get("version") != VERSION:
            raise ProfileError(f"it has version {found.get('version')!r}, and this c4d reads {VERSION}: make it again")
        try:
            method, data, made_for = found["method"], found["data"], found["made_for"]
            if not isinstance(data, dict) or not isinstance(made_for, dict | None):
                raise TypeError(f"its data are {type(data).__name__}, its made_for is {type(made_for).__name__}")
            return cls(str(method), data, made_for, found.get("about", {}), found.get("figures", {}))
        except (KeyError, TypeError) as error:
            raise ProfileError(f"it is broken: {type(error).__name__}: {error}") from error

    @classmethod
    def load(cls, path: str | Path, method: str, *keys: str) -> CalibrationData:
        """That of ``method``, whose data have ``keys``. Raises :class:`ProfileError` for any other file, or none."""
        again = f"c4d calibrate {method} makes it"
        try:
            found = cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ProfileError(f"path={path} is to be the calibration of {method} ({again}): {error}") from error
        if found.method != method:
            raise ProfileError(f"path={path} is a calibration of {found.method!r}, not of {method} ({again})")
        if lacking := [key for key in keys if key not in found.data]:
            raise ProfileError(f"path={path} lacks {', '.join(lacking)}: make it again ({again})")
        return found

    def numbers(self, key: str, count: int | None = None) -> tuple[float, ...]:
        """The finite numbers of its data under ``key``. Raises :class:`ProfileError` for others, or not ``count``."""
        given = self._list(key, lambda x: isinstance(x, int | float) and math.isfinite(x), count)
        return tuple(map(float, given))

    def places(self, key: str) -> tuple[int, ...]:
        """The whole numbers from 0 of its data under ``key``. Raises :class:`ProfileError` for others."""
        return tuple(self._list(key, lambda x: isinstance(x, int) and x >= 0))

    def words(self, key: str) -> tuple[str, ...]:
        """The words of its data under ``key``. Raises :class:`ProfileError` for others."""
        return tuple(self._list(key, lambda x: isinstance(x, str)))

    def _list(self, key: str, good: Callable[[Any], bool], count: int | None = None) -> list[Any]:
        given = self.data[key]
        if not isinstance(given, list) or not given or count not in (None, len(given)) or not all(map(good, given)):
            said = reprlib.repr(given)
            raise ProfileError(f"the {key} of this calibration of {self.method} is broken, {said}: make it again")
        return given

    def curves(self) -> tuple[Curve, ...]:
        """Those of its data. Raises :class:`ProfileError` if they are none."""
        try:
            made = tuple(map(Curve.from_dict, self.data["curves"]))
            if not made:
                raise ValueError("there is none")
        except (KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ProfileError(f"the curves of this calibration of {self.method} are broken: {said}") from error
        return made

    def bound(self, policy: Policy[Any]) -> Policy[Any]:
        """``policy``, for the transformer that this was made for alone."""
        return policy if self.made_for is None else MadeFor(policy, self.made_for)
