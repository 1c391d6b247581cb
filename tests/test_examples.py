"""Each program in examples/ runs, with fewer steps, and leaves what it says; so does the notebook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
import transformers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
PROGRAMS = {path.name: path for path in sorted(FOLDER.glob("*.py"))}
SHORTER = (  # twelve steps, of which a profile computes six; no search; text as long as these prompts are
    (r"STEPS, COMPUTED = 50, 14", "STEPS, COMPUTED = 12, 6"),
    (r"computed=1[24]", "computed=6"),
    (r"\b(STEPS|steps|num_inference_steps)(\s*=\s*)(?:50|20)\b", r"\1\g<2>12"),
    (r"minutes=0\.1", "minutes=0"),
    (r"height=32,", "max_sequence_length=16, height=32,"),
)
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
    "several_ranks.py": ({"together.gif"}, "ulysses 2"),
}


def shorter(source):
    for pattern, text in SHORTER:
        source = re.sub(pattern, text, source)
    return source


def test_each_program_is_known_short_and_in_the_index():
    assert set(LEFT) == set(PROGRAMS)
    index = (FOLDER / "README.md").read_text()
    for name, path in PROGRAMS.items():
        assert len(path.read_text().splitlines()) < 60 and f"[{name}]({name})" in index
        assert f"python {name}`" in path.read_text() or f" {name}`" in path.read_text()


@pytest.mark.whole
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "several_ranks.py"])
def test_it_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(compile(shorter(PROGRAMS[name].read_text()), name, "exec"), {"__name__": "__main__"})
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


def test_several_ranks_run(tmp_path):
    (tmp_path / "program.py").write_text(shorter(PROGRAMS["several_ranks.py"].read_text()))
    start = "import runpy, sys, diffusers, torch; from tests.forked import ranks; torch.set_num_threads(1);"
    start += "diffusers.WanPipeline; sys.exit(ranks(2, lambda world, rank: runpy.run_path('program.py')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    files, said = LEFT["several_ranks.py"]
    assert done.returncode == 0, done.stderr
    assert said in done.stdout.lower(), done.stdout
    assert {path.name for path in tmp_path.iterdir()} == files | {"program.py"}
