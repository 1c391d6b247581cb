"""The sample of a product: what is in it, the same each time, and that no value can go missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sampled import MOST, first_of, sampled, spread, thinned


def kept(made):
    return [param.values for param in made if not param.marks]


def test_a_sample_has_whole_rows_and_columns_and_every_nth_of_the_rest():
    made = sampled(range(4), "abcd", whole=["a"], nth=4, shift=1)
    assert [param.values for param in made] == [(n, x) for n in range(4) for x in "abcd"]
    assert kept(made) == [(0, "a"), (0, "d"), (1, "a"), (1, "c"), (2, "a"), (2, "b"), (3, "a")]
    assert {mark.name for param in made for mark in param.marks if param.values not in kept(made)} == {"nightly"}


def test_samples_of_every_shift_are_the_whole_product():
    samples = [kept(sampled(range(7), "abcdefg", nth=5, shift=shift)) for shift in range(5)]
    assert sorted(values for sample in samples for values in sample) == [(n, x) for n in range(7) for x in "abcdefg"]


def test_what_takes_too_long_is_in_no_sample():
    assert kept(sampled("ab", ["wan", "wan, compiled"], nth=1, never="compiled", complete=False)) == [
        ("a", "wan"), ("b", "wan"),
    ]  # fmt: skip


def test_tuples_are_several_parameters():
    assert kept(sampled([("a", 1), ("b", 2)], "xy", nth=2)) == [("a", 1, "x"), ("b", 2, "y")]


def test_a_sample_without_some_value_is_an_error():
    with pytest.raises(AssertionError, match=r"no combination of the sample has \[1, 3\]"):
        sampled(range(4), "a", nth=2)
    with pytest.raises(AssertionError, match=r"\['c'\] on no axis"):
        sampled(range(4), "ab", whole=["a", "c"])
    assert kept(sampled(range(4), "a", nth=2, complete=False)) == [(0, "a"), (2, "a")]


def test_the_first_of_some_values():
    assert kept(first_of("abc", 2)) == [("a",), ("b",)] and len(first_of("abc")) == 3


@pytest.mark.parametrize("count", [1, 4, 5, 7, 8, 30, 101])
def test_what_is_run_of_many_parameters_is_spread_evenly(count):
    every = [spread(count, shift) for shift in range(count)]
    assert all(len(places) == min(MOST, count) and places <= set(range(count)) for places in every)
    assert set().union(*every) == set(range(count))
    gaps = [b - a for a, b in zip(sorted(every[0]), sorted(every[0])[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


class Item:
    def __init__(self, path, name, *marks):
        self.path, self.originalname, self.name, self.marks = Path(path), name, name, set(marks)

    def get_closest_marker(self, name):
        return name in self.marks

    def add_marker(self, mark):
        self.marks.add(mark.name)


def test_tests_of_products_run_some_parameters_and_others_all():
    made = {
        (path, *marks): [Item(path, "test", *marks) for _ in range(12)]
        for path, marks in (("tests/seam/a.py", ()), ("tests/cli/a.py", ()), ("tests/plan/a.py", ("whole",)))
    }
    thinned([item for these in made.values() for item in these])
    left = [sum("nightly" not in item.marks for item in these) for these in made.values()]
    assert left == [MOST, 12, 12]
