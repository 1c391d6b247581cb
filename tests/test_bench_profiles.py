"""The baselines that bench.profiles writes from their papers, and its page."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from bench.profiles import held_out, page
from bench.profiles.baselines import budcache, meancache, planned
from bench.profiles.results import Results
from bench.yardsticks import FOLDER
from c4d.calibrate.reference import record
from c4d.core.caching.profile import Profile
from c4d.core.caching.profiles import named, shipped
from c4d.core.text.grammar import parse
from tests.calibrate.test_fit import samplings

STEPS = 10


class Straight(nn.Module):
    """A velocity that is linear in the timestep and the same everywhere."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, hidden_states, timestep):
        return torch.full_like(hidden_states, 1.0 + self.slope * float(timestep) / 1000)


@torch.no_grad()
def test_meancache_reuses_what_stays_and_extrapolates_what_rises():
    kept = planned(record(samplings(Straight(0.0), FlowMatchEulerDiscreteScheduler(), steps=STEPS)), 3)
    assert len(kept) == 3 and 0 in kept and set(kept.values()) == {1}
    rising = planned(record(samplings(Straight(2.0), FlowMatchEulerDiscreteScheduler(), steps=STEPS)), 4)
    assert any(k > 1 for k in rising.values())
    assert parse(meancache({0: 1, 4: 3, 2: 2})).name == "meancache:computed=0/2/4,orders=1/2/3"
    assert parse(budcache([0, 3])).rules[0].policy.computed == {0, 3}


def test_shipped_profiles_say_what_was_measured_of_them_and_nobody_elses(monkeypatch, tmp_path):
    mine = tmp_path / "c4d/profiles/wan-tiny.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert named()["wan-tiny"] == mine != shipped()["wan-tiny"] and set(named()) == set(shipped())
    rows, seen = Results(FOLDER / "results.json").rows, 0
    for name, path in shipped().items():
        profile = Profile.load(path)
        told = held_out.told(name, profile, rows) if name != held_out.UNIVERSAL else profile.measured
        assert told == profile.measured, "python -m bench.profiles.held_out"
        seen += sum("held_out" in each for each in told.values())
    assert seen > 50


def row(kind, computed, *psnr):
    return {"kind": kind, "computed": computed, "psnr": list(psnr)}


def test_the_page_shows_the_closest_of_those_that_cost_no_more():
    rows = {
        "profile:x,computed=14": row("profile", 14, 50.0, 40.0),
        "14 plain steps": row("plain", 14, 40.0, 30.0),
        "cheap": row("method", 14.4, 42.0, 38.0),
        "cheaper": row("method", 10, 41.0, 30.0),
        "dear": row("method", 15, 60.0, 60.0),
        "budcache,computed=14": row("baseline", 14, 35.0, 33.0),
    }
    head, _, line = page.table(rows)
    assert head == "| computed | profile | plain | best method | BudCache |"
    assert line.startswith("| 14 | 45.0 / 40.0 | 35.0 / 30.0 (+10.0")
    assert "`cheap` 40.0 / 38.0 (+5.0" in line and "34.0 / 33.0 (+11.0" in line


@pytest.mark.parametrize("kind", ["between", "plain between"])
def test_interpolated_numbers_of_steps_have_a_table_of_their_own(kind):
    rows = {"profile:x,computed=9": row(kind, 9, 50.0)}
    assert len(list(page.table(rows))) == 2
    assert len(list(page.between(rows))) == (3 if kind == "between" else 2)
