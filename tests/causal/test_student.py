"""The bundled student: small, what it was trained for, and drawing what its prompt says; and the bench of students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import c4d
from bench import causal
from c4d.bundled import FRAMES, ROLLING, adherence, evaluation_set, judge, parse_caption, roll_out
from c4d.causal.rollout import RolloutConfig


@pytest.fixture(scope="module")
def pipe():
    return causal.load("wan-tiny-causal")


def test_it_is_small_and_names_no_place_of_its_making():
    folder = Path(c4d.bundled_model("wan-tiny-causal"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert 10e6 < sum(path.stat().st_size for path in files) < 13e6
    assert not any("_name_or_path" in path.read_text() for path in files if path.suffix == ".json")


def test_its_folder_says_how_it_rolls_out(pipe):
    defaults, trained = ROLLING["wan-tiny-causal"].defaults, c4d.rollout(pipe).config
    assert trained == RolloutConfig(block=1, window=3, shift=3.0, fps=8, height=32, width=32, text=16)
    assert (defaults.steps, defaults.guidance_scale, defaults.fps) == (
        len(trained.steps),
        trained.guidance,
        trained.fps,
    )
    assert (defaults.height, defaults.width) == (trained.height, trained.width)


def test_it_draws_what_the_prompt_says_and_keeps_the_shape_in_sight(pipe):
    asked, seeds = evaluation_set("held_out", 6)
    video = roll_out(c4d.rollout(pipe), asked, seeds, frames=2 * FRAMES)
    first, later = adherence(video[:, :, :FRAMES], asked), judge(video[:, :, FRAMES:])
    assert min(first.colour, first.motion, first.background) == 1.0 and first.shape >= 0.8
    assert (later.predicted[:, 3] == torch.tensor(asked)[:, 3]).all()
    assert (later.predicted[:, 0] == torch.tensor(asked)[:, 0]).float().mean() >= 0.8


def test_an_unknown_name_is_told_all_of_them():
    with pytest.raises(ValueError, match="known are wan-tiny, flux-tiny, glyph-dit, wan-tiny-causal"):
        c4d.bundled_model("wan-tiny-casual")


def test_the_example_is_a_prompt_of_the_judge():
    assert parse_caption(ROLLING["wan-tiny-causal"].example) is not None


def test_the_bench_writes_a_page_of_teacher_and_students(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(causal, "TEACHER", ((2, 4.0),))
    monkeypatch.setattr(causal, "TIMES", 2)
    monkeypatch.setattr(causal, "LOOKS", {"all frames": {"window": None, "sink": 0}})
    folder = c4d.bundled_model("wan-tiny-causal")
    causal.main(["--students", "one=wan-tiny-causal", f"two={folder}", "--clips", "1", "--out", str(tmp_path)])
    page = (tmp_path / "judge.md").read_text()
    assert page in capsys.readouterr().out
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    named = [row.split(" | ")[0].strip("| ") for row in rows]
    assert named[1:4] == ["teacher, 2 steps, guidance 4", "student, one", "student, two"]
    assert rows[2].split("|")[2:] == rows[3].split("|")[2:]  # they are the same model
    looks = [row.split(" | ")[1] for row in rows[5:]]
    assert named[5:] == ["one"] * 4 + ["two"] * 2
    assert looks == ["window 3, as trained"] * 2 + ["all frames"] * 2 + ["window 3, as trained"] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"judge.md", "clips.png", "long.png"}
