"""Products of many combinations: ``make test`` runs a sample, the same every time; ``make nightly`` runs them all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import product
from typing import Any

import pytest

PRODUCTS = ("seam", "plan")  # folders of tests whose parameters are methods and models
MOST = 4  # of the parameters of such a test that make test runs


def thinned(items: Sequence[pytest.Item]) -> None:
    """Marks ``nightly`` what is beyond ``MOST`` of each test in ``PRODUCTS``: what stays is spread evenly.

    Tests marked ``whole`` keep theirs; they see to it that every method and every model is in make test.
    """
    tests = defaultdict(list)
    for item in items:
        part = any(f"tests/{folder}/" in item.path.as_posix() for folder in PRODUCTS)
        if part and not any(item.get_closest_marker(mark) for mark in ("nightly", "parity", "whole")):
            tests[item.path, getattr(item, "originalname", item.name)].append(item)
    for (_, name), these in tests.items():
        stay = spread(len(these), shift=sum(map(ord, name)))
        for place, item in enumerate(these):
            if place not in stay:
                item.add_marker(pytest.mark.nightly)


def spread(count: int, shift: int = 0) -> set[int]:
    """``MOST`` of so many places, evenly spread; other ones for another ``shift``."""
    if count <= MOST:
        return set(range(count))
    return {(shift + place * count // MOST) % count for place in range(MOST)}


def first_of(values: Iterable[Any], keep: int = 1) -> list[Any]:
    """The first ``keep`` values as parameters; the others are marked ``nightly``: they take long and differ little."""
    return [_param([value], place < keep) for place, value in enumerate(values)]


def sampled(
    *axes: Iterable[Any],
    whole: Collection[Any] = (),
    never: str | None = None,
    nth: int = 6,
    shift: int = 0,
    complete: bool = True,
) -> list[Any]:
    """The combinations of ``axes`` as parameters; all but a sample are marked ``nightly``.

    In the sample are those that have a value of ``whole``, and of the others those whose positions, ``shift`` and all,
    add up to a multiple of ``nth``; none that has a value with ``never`` in its name. Tests of the same axes take
    different shifts, and so different samples. Unless it need not be ``complete``, every value of every axis has to be
    in it. A tuple on an axis gives several parameters.
    """
    listed, made = [list(axis) for axis in axes], []
    seen: list[set[int]] = [set() for _ in axes]
    for chosen in product(*map(enumerate, listed)):
        at, values = zip(*chosen, strict=True)
        kept = any(isinstance(value, str) and value in whole for value in values) or (sum(at) + shift) % nth == 0
        kept = kept and not (never and any(never in _said(value) for value in values))
        for places, place in zip(seen, at, strict=True):
            places.update([place] if kept else [])
        made.append(_param(values, kept))
    nowhere = [value for value in whole if not any(value in axis for axis in listed)]
    assert not nowhere, f"{nowhere} on no axis"
    for axis, places in zip(listed, seen, strict=True):
        missing = [value for place, value in enumerate(axis) if place not in places]
        assert not (complete and missing), f"no combination of the sample has {missing}"
    return made


def _param(values: Iterable[Any], kept: bool) -> Any:
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, tuple) else [value]
    name = "-".join(_said(value) for value in flat)
    return pytest.param(*flat, id=name, marks=() if kept else pytest.mark.nightly)


def _said(value: Any) -> str:
    """Without addresses, which are others in each worker."""
    return str(getattr(value, "__name__", None) or getattr(value, "name", None) or value)
