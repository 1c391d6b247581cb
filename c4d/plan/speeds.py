"""Speeds of devices from the records of ``bench/accelerator``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from c4d.pipelines.errors import InputError
from c4d.plan.table import Speeds

LONG = 4096  # tokens from which an attention keeps a device busy


def measured(file: Path, *, across: float | None, node: int) -> Speeds:
    """The median TFLOP/s of attention "auto" without a mask on long sequences (part "attention"), and GB/s of the
    exchange of queries among the most ranks (part "cards").

    Raises :class:`InputError` for a file that lacks them.
    """
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found = {(each["part"], each["case"]): each for each in records if "part" in each}
        rates, links = _rates(found), _links(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} is no cases.jsonl of bench/accelerator ({error}); give --tflops") from error
    for what, part, flag in ((rates, "attention", "--tflops"), (links, "cards", "--bandwidth")):
        if not what:
            raise InputError(f"{str(file)!r} has nothing of the part {part!r}: measure it, or give {flag} instead")
    inner = max(links)[1]
    return Speeds(median(rates), inner, inner / 8 if across is None else across, node, f"measured, {file}")


def _rates(found: dict[Any, Any]) -> list[float]:
    """TFLOP/s."""
    cases = [each for (part, _), each in found.items() if part == "attention" and not each.get("masked", True)]
    able = [each for each in cases if each["shape"][1] >= LONG and "ms" in each["kernels"].get("auto", {})]
    return [each["flop"] / each["kernels"]["auto"]["ms"] / 1e9 for each in able]


def _links(found: dict[Any, Any]) -> list[tuple[int, float]]:
    """Ranks, and GB/s that one of them sends."""
    cases = [each for (part, _), each in found.items() if part == "cards" and each.get("times")]
    return [
        (each["ranks"], time["gb_s"]) for each in cases for name, time in each["times"].items() if "all-to-all" in name
    ]
