"""Each program in examples/ runs, with fewer steps, and leaves what it says; so does the notebook."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
import transformers

from tests.programs import FOLDER, RANKS, run, shorter

pytestmark = pytest.mark.slow

PROGRAMS = {path.name: path for path in sorted(FOLDER.glob("*.py")) if path.name != RANKS}
LEFT = {  # what is in the folder afterwards, and words of what was printed
    "text_to_video.py": ({"clip.gif"}, "made for this model"),
    "compare_with_plain_steps.py": (set(), "profile:wan-tiny,computed=6: 6 of 12 steps computed"),
    "tune_a_profile.py": ({"profile.json"}, "profile:profile.json,computed=6"),
    "own_loop.py": (
        set(),
        "CrrCrrCrrCrrCrrCrrCC C: computed, r: forecast\nlatents (1, 8, 4, 8, 8) bytes held after the loop: 0",
    ),
    "class_to_image.py": ({"A.png", "Q.png"}, "CrrCrrCrrCrC"),
    "server.py": (set(), "the client went away; the cache holds 0 bytes\nthe same request is the same clip: True"),
    "memory_budget.py": (set(), "histories on the device in 8 bits"),
    "stream_a_rollout.py": ({"rollout.gif"}, "21 frames; the stream keeps"),
    "attention_maps.py": ({"maps.npz"}, "of each head's attention stays in its frame"),
}


def test_each_program_is_known_short_and_in_the_index():
    assert set(LEFT) == set(PROGRAMS)
    index = (FOLDER / "README.md").read_text()
    for name, path in {**PROGRAMS, RANKS: FOLDER / RANKS}.items():
        assert len(path.read_text().splitlines()) < 60 and f"[{name}]({name})" in index
        assert f" {name}``" in path.read_text().partition('"""\n')[0]


@pytest.mark.whole
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        run(PROGRAMS[name].read_text(), name)
    files, said = LEFT[name]
    assert {path.name for path in tmp_path.iterdir()} == files
    assert said in capsys.readouterr().out


def test_the_notebook_runs_and_keeps_what_it_shows(capsys):
    """The source of its cells; the outputs that it keeps are those of the last `python -m tools.notebook`."""
    pytest.importorskip("matplotlib").use("agg")
    notebook = json.loads((FOLDER / "first_steps.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    scope = {}
    try:
        for cell in cells:
            exec(compile(shorter("".join(cell["source"])), cell["id"], "exec"), scope)
    finally:
        diffusers.utils.logging.enable_progress_bar()
        transformers.utils.logging.enable_progress_bar()
    said = capsys.readouterr().out
    assert "bit for bit the same: True" in said and "profile:wan-tiny,computed=6: " in said
    kept = [each for cell in cells for each in cell["outputs"]]
    assert [sorted(each["data"]) for each in kept if "data" in each] == [["image/png", "text/plain"]] * 3
    assert {each["name"] for each in kept if "name" in each} == {"stdout"} and "error" not in str(kept)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert (FOLDER / "first_steps.ipynb").stat().st_size < 500_000
