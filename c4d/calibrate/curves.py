"""Curves over the noise level, of each branch of guidance and expert, averaged over samplings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from c4d.calibrate.calibration import Fitted, Record, by_branch
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.recording import Row
from c4d.core.caching.curves import Curve

Points = list[tuple[float, float]]


def averaged(records: Sequence[Record], points_of: Callable[[Sequence[Row]], Points]) -> list[Curve]:
    """The mean of ``points_of(rows)``, (noise level, value) of one sampling's branch, over the samplings.

    Raises :class:`CalibrationError` for samplings whose noise levels are not the same, and where nothing is left.
    """
    found: dict[tuple[str, int], list[Points]] = {}
    for record in records:
        for place, rows in by_branch(record["rows"]).items():
            found.setdefault(place, []).append(points_of(rows))
    curves = []
    for (branch, expert), several in found.items():
        values: dict[float, list[float]] = {}
        for level, value in (point for points in several for point in points):
            values.setdefault(level, []).append(value)
        if len(values) > max(map(len, several)):
            raise CalibrationError(f"the samplings of {branch} have other noise levels each: sample all alike")
        points = sorted((level, sum(each) / len(each)) for level, each in values.items())
        if len(points) < 2:
            raise CalibrationError(f"{len(points)} steps of {branch} have a value: a curve needs two, so more steps")
        curves.append(Curve(branch, expert, tuple(points)))
    return curves


def fitted(curves: Sequence[Curve], records: Sequence[Record], name: str) -> Fitted:
    """The curves as data, and what they are made of; ``name``: what some steps of the records have no number of."""
    bad = sum(row[name] is None for record in records for row in record["rows"] if not row["begins"])
    samples = len(records)
    told = [f"{curve.branch}, expert {curve.expert}: {len(curve.points)} noise levels" for curve in curves]
    told.append(f"mean of {samples} samples{f', {bad} steps left out that are no numbers' if bad else ''}")
    return Fitted({"curves": [curve.to_dict() for curve in curves]}, {"samples": samples, "left_out": bad}, told)
