"""``c4d tune`` from the command line, on a model of random weights: files, figures, goals, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import c4d as package
from c4d.pipelines.tuning import Contender, Row, beside, fewest, front, most, table

PROMPTS = "a red circle\na blue square\na green triangle\n"


@pytest.fixture
def tune(saved, tmp_path):
    (tmp_path / "prompts.txt").write_text(PROMPTS)

    def words(*more):
        sizes = ["--height", "32", "--width", "32", "--frames", "5", "--steps", "14", "--max-sequence-length", "8"]
        where = ["--prompt-file", tmp_path / "prompts.txt", "--out", tmp_path / "p.json"]
        return ["tune", "--model", saved, *where, *sizes, "--minutes", "0", *more]

    return words


def test_a_profile_from_the_command_line(c4d, tune, saved, tmp_path):
    outcome = c4d(*tune("--computed", "7/5"))
    assert outcome.code == 0, outcome.err
    assert "tune: reference samples: 14 steps" in outcome.err
    profile = package.Profile.load(tmp_path / "p.json")
    assert set(profile.plans) == {7, 5} and profile.about["model"] == str(saved)
    assert profile.measured[5]["held_out"]["samples"] == 2 and profile.measured[5]["plain"]["steps"] == 5
    figures = json.loads((tmp_path / "p.front.json").read_text())
    kinds = {row["kind"] for row in figures["rows"]}
    assert kinds == {"profile", "plain steps", "other"} and any(row["front"] for row in figures["rows"])
    assert (tmp_path / "p.front.png").exists() and not (tmp_path / "p.work").exists()
    recommended = next(line for line in outcome.out.splitlines() if line.startswith("recommended: "))
    assert f"c4d generate --model {saved} " in recommended
    assert "7 plain steps" in outcome.out and "seacache" in outcome.out
    made = ["--cache", f"profile:{tmp_path}/p.json,computed=5", "--prompt", "a red circle", "--out", tmp_path / "out"]
    small = ["--height", "32", "--width", "32", "--frames", "5", "--steps", "14"]
    assert c4d("generate", "--model", saved, *made, *small, "--quiet").code == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert sum(letter == "C" for letter in report["session"]["timelines"]["cond"]) == 5


def test_what_was_tuned_small_is_fitted_at_full_size(c4d, fails, tune, tmp_path):
    assert c4d(*tune("--computed", "5", "--frames", "1")).code == 0
    small = package.Profile.load(tmp_path / "p.json")
    odd = replace(small.plans[5], computed=(*small.plans[5].computed[:-1], small.plans[5].between[-1][0]), corrected=())
    replace(small, plans={5: odd}).save(tmp_path / "small.json")
    assert c4d(*tune("--computed", "5", "--begin", tmp_path / "small.json", "--overwrite")).code == 0
    profile = package.Profile.load(tmp_path / "p.json")
    assert profile.plans[5].computed == odd.computed and profile.plans[5].between != odd.between
    assert profile.about["shape"] != small.about["shape"]
    fails(tune("--overwrite", "--begin", "none-such"), 2, "no profile is named 'none-such': known are")


def test_it_is_kept_unless_it_may_be_replaced(fails, c4d, tune, tmp_path):
    (tmp_path / "p.json").write_text("mine")
    fails(tune("--computed", "5"), 2, "p.json' is there already", "--overwrite")
    assert (tmp_path / "p.json").read_text() == "mine"


def test_a_speed_that_is_asked_for(c4d, tune, tmp_path):
    assert c4d(*tune("--target-speedup", "2")).code == 0
    assert set(package.Profile.load(tmp_path / "p.json").plans) == {7}


def test_a_closeness_that_no_plan_reaches(c4d, tune):
    outcome = c4d(*tune("--target-psnr", "119"))
    assert outcome.code == 0 and "the front ends below --target-psnr 119" in outcome.err


@pytest.mark.parametrize(
    "more, words",
    [
        (["--computed", "14"], ["of 14 steps 14 would be computed", "from 2 to 13"]),
        (["--computed", "5", "--target-psnr", "40"], ["--computed and --target-psnr are two goals"]),
        (["--target-speedup", "1"], ["--target-speedup is 1.0", "above 1"]),
        (["--target-speedup", "20"], ["would be computed", "from 2 to 13"]),
        (["--minutes", "-1"], ["--minutes is -1.0"]),
        (["--samples", "0"], ["--samples is 0"]),
        (["--samples", "3"], ["leave none to measure on"]),
        (["--cache-memory", "0GiB"], ["'0GiB' is nothing", "above 0"]),
        (["--cache-memory", "much"], ["--cache-memory", "'much' is no size", "8GiB"]),
    ],
)
def test_what_cannot_be_aimed_for(fails, tune, more, words):
    fails(tune(*more), 2, *words)


def test_one_prompt_is_not_enough(fails, tune, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    fails(tune("--computed", "5"), 2, "--prompt-file with two or more")


def row(name, share, psnr, kind="other", held=0):
    return Row(kind, name, 10, tuple(psnr), share, held, 1.0)


def test_the_front():
    rows = [row("a", 0.2, [30]), row("b", 0.3, [29]), row("c", 0.4, [40]), row("d", 0.2, [31])]
    assert [each.name for each in front(rows)] == ["d", "c"]
    marked = list(table(rows, rows[2]))
    assert marked[1].startswith("* d") and marked[-1].startswith("> c")


def test_plain_steps_of_the_same_cost():
    plain = [row("4 plain steps", 0.4, [30], "plain steps"), row("6 plain steps", 0.6, [35], "plain steps")]
    assert beside(row("x", 0.45, [1]), plain).name == "6 plain steps"
    assert beside(row("x", 0.4, [1]), plain).name == "4 plain steps"
    assert beside(row("x", 0.9, [1]), plain).name == "6 plain steps" and beside(row("x", 0.9, [1]), []) is None


@pytest.mark.parametrize("target, wanted", [(10.5, 11), (20.0, 20), (7.0, 8), (25.0, None)])
def test_the_fewest_steps_for_a_closeness(target, wanted):
    asked = []

    def one(count):
        asked.append(count)
        return row(f"{count}", count / 50, [float(count)])

    found, rows = fewest(one, (8, 14, 20), target)
    assert found == (None if wanted is None else wanted) and len(rows) == len(asked) == len(set(asked))


def test_the_most_steps_for_a_speed():
    assert most(50, 3) == 16 and most(50, 2.5) == 20 and most(30, 3) == 10


def test_names():
    assert Contender("plain steps", None, 14).name == "14 plain steps"
