"""Calibrations of published methods, one a file: each is a function from its options to a calibration.

As text it is written like a method, ``teacache:signal=time_embedding``. Those of other packages are here, too: entry
points of the group ``c4d.calibrations``.
"""

from __future__ import annotations

from typing import Any

from c4d.calibrate.calibration import Calibrator
from c4d.core.registry import Registry

CALIBRATIONS: Registry[Calibrator[Any]] = Registry("c4d.calibrations", __name__, Calibrator, lambda found: found.name)

__all__ = ["CALIBRATIONS"]
