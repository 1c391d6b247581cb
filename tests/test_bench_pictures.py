"""What README's pictures show is chosen by a rule, and drawn from what was measured."""

from __future__ import annotations

import pytest
import torch

from bench import pictures


def row(kind, computed, *psnr):
    return {"kind": kind, "computed": computed, "psnr": list(psnr)}


ROWS = {
    "profile:x,computed=10": row("profile", 10, 40.0, 20.0, 30.0),
    "10 plain steps": row("plain", 10, 25.0, 10.0, 35.0),
    "12 plain steps": row("plain between", 12, 26.0, 11.0, 36.0),
    "cheap": row("method", 9.5, 21.0, 22.0, 23.0),
    "dear and further off": row("peer", 11, 20.0, 20.0, 20.0),
    "dear": row("baseline", 12, 30.0, 30.0, 30.0),
}


def test_the_clips_are_the_middle_one_and_the_worst():
    assert pictures.chosen(ROWS) == {"the middle one of 3 clips": 2, "the profile's worst one": 1}


def test_lines_are_of_what_nothing_cheaper_equals():
    found = pictures.lines(ROWS)
    assert [steps for steps, _ in found["best published method of the cost"]] == [9.5, 12]
    assert [steps for steps, _ in found["plain steps"]] == [10, 12]
    assert found["profile"] == [(10, [40.0, 20.0, 30.0])]


def test_a_film_has_a_row_for_each_clip_and_shows_what_differs():
    dark, light = torch.zeros(3, 2, 4, 4), torch.full((3, 2, 4, 4), 0.0625)
    shown = [pictures.Shown("one", "a dot", (dark, dark, light), (99.0, 24.1))] * 2
    frames = pictures.film(shown, pictures.THEMES[0])
    side = 4 * pictures.PIXEL
    size = 5 * side + 4 * pictures.GAP, pictures.HEAD + 2 * (side + pictures.LINE)
    assert [frame.size for frame in frames] == [size] * 2
    colours = [frames[0].getpixel((column * (side + pictures.GAP) + 5, pictures.HEAD + 5)) for column in range(5)]
    assert colours == [(0, 0, 0), (0, 0, 0), (16, 16, 16), (0, 0, 0), (128, 128, 128)]  # 8 times 1/16


def test_the_figure_is_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        pictures.draw(ROWS, pictures.THEMES[1], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
