"""Bytes as text, read and written."""

from __future__ import annotations

import re

UNITS = "BKMGT"


def parse_size(text: str) -> int:
    """Bytes of ``8GiB`` (1024³ each), ``24GB`` (1000³), ``500MiB`` or a plain number of bytes.

    Raises ValueError for what is no size, or none above 0.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)?\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no size; write 64MiB or 8GiB (units are B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)")
    unit = match[2] or "B"
    size = int(float(match[1]) * (1024 if "i" in unit else 1000) ** UNITS.index(unit[0]))
    if not size:
        raise ValueError(f"{text!r} is nothing; write a size above 0, such as 8GiB")
    return size


def told(size: int) -> str:
    """In the largest unit of 1024s that leaves a number above 1."""
    power = max(n for n in range(len(UNITS)) if n == 0 or size >= 1024**n)
    return f"{size / 1024**power:.2f} {UNITS[power]}iB" if power else f"{size} bytes"
