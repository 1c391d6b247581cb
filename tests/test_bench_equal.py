"""The table of equal schedules: every peer of it is reproduced on a random transformer, and in the bench's own way."""

from __future__ import annotations

import pytest
import torch

import c4d
from bench.peers import equal
from tests.seam.peers import apart, uncached
from tests.tiny import CASES

STEPS = 20


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parity
@pytest.mark.parametrize(
    ("system", "package", "count"), [("diffusers", "diffusers", 13), ("cache-dit", "cache_dit", 9)]
)
def test_the_first_composition_of_a_pair_is_the_peer(system, package, count):
    pytest.importorskip(package)
    case, pairs = CASES["wan-t2v"], [pair for pair in equal.pairs(STEPS) if pair.peer.startswith(system)]
    assert len(pairs) == count
    for pair in pairs:
        model = case.build()
        with pair.open(model) as begin:
            begin()
            theirs = case.loop(model, STEPS, guided=pair.guided)
        model = case.build()
        with c4d.cached(model, pair.ours[0][1]) as session:
            ours = case.loop(model, STEPS, lambda ts, s=session: s.begin(ts, [t / 1000.0 for t in ts]), pair.guided)
        assert apart(ours, theirs) <= 3e-6, pair.peer  # weights of order 2 over gaps of 4 enlarge rounding
        assert apart(theirs, uncached("wan-t2v", STEPS, pair.guided)) > 1e-3, pair.peer


def test_pairs_are_compared_by_their_own_kind_of_run(monkeypatch):
    """A guided pair and one of a single branch on the bundled model, each against the uncached run of its kind."""
    from bench.clips import pipeline

    chosen = [p for p in equal.pairs(6) if "PyramidAttention" in p.peer or "SeaCache threshold=1e9" in p.peer]
    monkeypatch.setattr(equal, "pairs", lambda steps: chosen)
    rows = equal.compare(pipeline(), 1, 6)["rows"]
    assert [row["peer"] for row in rows] == [pair.peer for pair in chosen]
    assert [pair.guided for pair in chosen] == [True, False]
    assert all(row["apart"] <= 1e-5 < 1e-4 < row["effect"] for row in rows), rows


def test_the_page_says_what_is_equal():
    rows = [("a", "mine", 9e-6, ""), ("a", "own", 0.1, "another schedule"), ("b", "mine", 0.2, "")]
    rows = [{"peer": p, "c4d": c, "apart": d, "shows": s, "effect": 0.5} for p, c, d, s in rows]
    page = "\n".join(equal.page({"clips": 2, "rounding": 1e-6, "rows": rows}))
    assert "1 of 2 peer configurations are reproduced" in page and "Not explained: b." in page
    assert "| mine | 9.0e-06 | equal to rounding |" in page
    assert "differs: another schedule" in page and "differs: **not explained**" in page
