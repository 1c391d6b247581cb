"""The pure parts of bench.fidelity: intervals, the choice of what a case is compared with, the file and the page."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.fidelity.page import against, at_budget, write
from bench.fidelity.results import Measured, Results
from bench.fidelity.statistics import best, equal_cost
from c4d.metrics.paired import paired

PLAIN = {10: 160.0, 17: 272.0, 20: 320.0}


def case(system, method, rows, psnr):
    clips = len(psnr)
    return Measured(
        "unipc",
        system,
        method,
        "",
        50,
        psnr,
        [min(1.0, x / 100) for x in psnr],
        [1] * clips,
        [rows] * clips,
        [rows] * clips,
    )


def test_the_interval_of_a_known_sample():
    """For many draws of a normal sample the bootstrap agrees with mean +- 1.96 standard errors."""
    a = np.random.default_rng(1).normal(1.0, 2.0, 400)
    d = paired(a, np.zeros(400))
    error = a.std() / 20
    assert d.mean == pytest.approx(a.mean())
    assert d.low == pytest.approx(a.mean() - 1.96 * error, abs=0.1 * error)
    assert d.high == pytest.approx(a.mean() + 1.96 * error, abs=0.1 * error)
    assert d.verdict == "better"


def test_pairing_removes_what_the_clips_share():
    shared = np.random.default_rng(2).normal(40.0, 9.0, 48)
    assert paired(shared + 0.5, shared) == pytest.approx((0.5, 0.5, 0.5))
    assert paired(shared - 0.5, shared).verdict == "worse"
    assert paired([1.0, -1.0, 1.0, -1.0], [0.0] * 4).verdict == "undecided"
    assert paired(shared, shared[::-1]) == paired(shared, shared[::-1])


def test_unequal_rows_are_refused():
    with pytest.raises(ValueError):
        paired([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError):
        paired([], [])


@pytest.mark.parametrize(
    "cost, steps", [(100.0, 10), (160.0, 10), (160.5, 17), (272.0, 17), (320.0, 20), (321.0, None)]
)
def test_equal_cost_never_favours_the_cache(cost, steps):
    assert equal_cost(cost, PLAIN) == steps


def test_the_best_within_a_budget():
    scores = [("cheap", 100.0, 30.0), ("good", 200.0, 40.0), ("dear", 300.0, 50.0)]
    assert best(scores, 200.0) == "good"
    assert best(scores, 99.0) is None


def filled(path):
    results = Results.load(path, {"clips": 3, "steps": 50, "guidance": 4.0, "length": 16, "batch": 3})
    results.stamps.append(["- Command: none"])
    results.cases += [
        case("uncached", "", 800.0, [float("inf")] * 3),
        replace(case("plain", "10 steps", 160.0, [30.0, 31.0, 32.0]), steps=10),
        replace(case("plain", "18 steps", 288.0, [40.0, 41.0, 42.0]), steps=18),
        case("c4d", "good", 280.0, [45.0, 45.5, 47.0]),
        case("diffusers", "bad", 290.0, [10.0, 11.0, 12.0]),
        case("cache-dit", "near", 250.0, [10.0, 11.0, 12.0]),
    ]
    results.save()
    return results


def test_the_file_gives_back_what_was_kept(tmp_path):
    results = filled(tmp_path / "results.json")
    again = Results.load(results.path, results.setting)
    assert again == results
    assert again.has("unipc", "c4d good") and not again.has("euler", "c4d good")
    with pytest.raises(SystemExit, match="choose another --out"):
        Results.load(results.path, {**results.setting, "clips": 4})
    assert not list(tmp_path.glob("*.partial"))
    assert "Infinity" not in results.path.read_text()


def test_the_page_says_who_is_better(tmp_path):
    results = filled(tmp_path / "results.json")
    plain = results.of("unipc", "plain")
    found = against(results.of("unipc", "c4d")[0], plain)
    assert found.plain.steps == 18 and found.verdict == "better"
    dearer = against(results.of("unipc", "diffusers")[0], plain)
    assert dearer.plain.steps == 18 and dearer.verdict == "worse"
    assert against(case("c4d", "dear", 300.0, [50.0] * 3), plain).verdict == "undecided"
    assert [c.name for c in at_budget(results, "unipc", 18)] == [
        "uncached", "plain 18 steps", "c4d good", "diffusers bad", "cache-dit near"
    ]  # fmt: skip
    page = write(results, [])
    assert "| good |  | 280.0 | 35.0% | 45.83 / 45.00 |" in page
    assert "cache-dit: in PSNR 0 of 1 settings are better" in page and "At no measured setting better: near." in page


def test_the_page_says_what_is_equal(tmp_path):
    results = filled(tmp_path / "results.json")
    rows = [("a", "mine", 9e-6, ""), ("a", "own", 0.1, "another schedule"), ("b", "mine", 0.2, "")]
    rows = [{"peer": p, "c4d": c, "apart": d, "shows": s, "effect": 0.5} for p, c, d, s in rows]
    results.facts["equal"] = {"sampler": "unipc", "clips": 2, "rounding": 1e-6, "rows": rows}
    page = write(results, [])
    assert "1 of 2 peer configurations are reproduced" in page and "Not explained: b." in page
    assert "| mine | 9.0e-06 | equal to rounding |" in page
    assert "differs: another schedule" in page and "differs: **not explained**" in page


def test_the_pure_parts_need_no_peer_and_no_plot():
    code = """
import sys
for name in ("cache_dit", "matplotlib", "diffusers"):
    sys.modules[name] = None
import bench.fidelity.page, bench.fidelity.plot, bench.fidelity.statistics
"""
    subprocess.run([sys.executable, "-c", code], check=True)
