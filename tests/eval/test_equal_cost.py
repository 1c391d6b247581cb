"""The pure parts of bench.fidelity: intervals, what a contender stands beside, the page."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest

from bench.fidelity import advice
from bench.fidelity.page import short, write
from bench.fidelity.table import LEVELS, against, closest, of, read
from c4d.metrics.paired import paired
from c4d.pipelines.tuning import OTHER, PEER, PLAIN, UNCACHED


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


def line(name, kind, share, psnr, steps=50):
    same = {"contender": name, "kind": kind, "steps": steps, "prompt": "a", "as_asked": "True", "cache_bytes": ""}
    same |= {"share": share, "flops": int(1000 * share), "seconds": share, "SSIM": 0.9, "FLIP": 0.1}
    return [{**same, "seed": i, "PSNR": x} for i, x in enumerate(psnr)]


@pytest.fixture
def entries(tmp_path):
    rows = [
        *line("uncached", UNCACHED, 1.0, [120.0] * 3),
        *line("10 plain steps", PLAIN, 0.2, [30.0, 31.0, 32.0], 10),
        *line("14 plain steps", PLAIN, 0.28, [40.0, 41.0, 42.0], 14),
        *line(f"14 {LEVELS}", LEVELS, 0.28, [41.0, 42.0, 43.0], 14),
        *line("profile:x,computed=14", OTHER, 0.28, [50.0, 51.0, 52.0]),
        *line("good:interval=4", OTHER, 0.27, [45.0, 45.5, 47.0]),
        *line("uneven:interval=4", OTHER, 0.27, [60.0, 61.0, 30.0]),
        *line("dpcache:path=a/b/dpcache.json,budget=14", OTHER, 0.28, [40.5, 41.5, 42.5]),
        *line("diffusers bad", PEER, 0.28, [10.0, 11.0, 12.0]),
        *line("BudCache computed=14", PEER, 0.28, [38.0, 39.0, 40.0]),
    ]
    path = tmp_path / "compare.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return read(path)


def test_what_is_read_is_what_was_measured(entries):
    good = next(each for each in entries if each.name == "good:interval=4")
    assert good.psnr == (45.0, 45.5, 47.0) and good.share == pytest.approx(0.27) and good.flops == 270
    assert good.asked == (True,) * 3 and good.bytes is None and good.group == "c4d"
    assert [each.group for each in entries[4:]] == ["profile", "c4d", "c4d", "c4d", "diffusers", "baseline"]


def test_equal_cost_never_favours_the_cache(entries):
    known = {each.name: each for each in entries}
    assert against(known["good:interval=4"], entries).plain.steps == 14  # 0.27 is more than 10 steps cost
    assert against(known["10 plain steps"], entries).plain.steps == 10
    assert against(known["uncached"], entries) is None
    assert against(known["diffusers bad"], entries).verdict == "worse"
    assert against(known["profile:x,computed=14"], entries, LEVELS).psnr.mean == pytest.approx(9.0)


def test_the_best_within_a_budget(entries):
    assert closest(of(entries, "c4d"), 0.28).name == "uneven:interval=4"
    assert closest(of(entries, "c4d"), 0.2) is None


def test_the_page_says_who_is_better(entries):
    page = write({"x-tiny": entries}, {"x-tiny": ["- Command: none"]})
    assert "| x-tiny | 14 | 41.0 / 40.0 | 42.0 / 41.0 | 51.0 / 50.0 (+10.0 [" in page
    assert "- diffusers: 0 of 1 settings are closer" in page and "1 further away" in page
    assert "- c4d's other methods: 2 of 3 settings" in page and "- BudCache and MeanCache: 0 of 1" in page
    assert "`dpcache:path=…/dpcache.json,budget=14`" in page


def test_a_long_path_is_left_out_of_a_name():
    assert short("l2p:path=a/b/c.json") == "l2p:path=…/c.json" and short("dmd:interval=3") == "dmd:interval=3"


def test_the_page_of_advice_lists_what_is_better_and_not_much_worse_in_its_worst_clip(entries):
    assert [each.name for each, _ in advice.good(entries)] == ["good:interval=4"]
    text = advice.filled(f"a\n{advice.MARKED.begin}old\n{advice.MARKED.end}b", entries)
    assert "old" not in text and "| `good:interval=4` | 27% | 45.8 / 45.0 dB | 14 steps: +4.8 dB" in text
    for without in ("a page", text.replace(advice.MARKED.end, ""), text + text):
        with pytest.raises(ValueError, match="has to have '<!-- measured settings"):
            advice.filled(without, entries)


def test_the_pure_parts_need_no_peer_and_no_plot():
    code = """
import sys
for name in ("cache_dit", "matplotlib", "diffusers"):
    sys.modules[name] = None
import bench.fidelity.page, bench.fidelity.plot, bench.fidelity.advice
"""
    subprocess.run([sys.executable, "-c", code], check=True)
