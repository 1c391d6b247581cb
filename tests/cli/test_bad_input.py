"""Bad input: the exit code, one line with the value, what is known and the way out, and never a traceback."""

from __future__ import annotations

import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from diffusers import WanImageToVideoPipeline  # noqa: F401: said once, before stderr is looked at: no torchvision

from c4d import backends
from c4d.backends.reference import Reference
from c4d.pipelines import load_pipeline
from tests.cli.bad_input import ROWS
from tests.cli.conftest import PROMPT


@pytest.fixture
def weights(monkeypatch):
    """The models whose weights were asked for."""
    asked = []

    def load(model, **options):
        asked.append(model)
        return load_pipeline(model, **options)

    monkeypatch.setattr("c4d.cli.load_pipeline", load)
    return asked


def test_the_table_has_its_hundred():
    assert len(ROWS) >= 100 and len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row.name)[1:60])
def test_one_clear_line(c4d, generate, weights, tmp_path, row):
    def placed(word):
        return word.replace("TMP", str(tmp_path))

    for name, content in row.files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if row.damage is not None:
        shutil.copytree(Path(str(files("c4d"))) / "assets/wan_tiny", tmp_path / "model", copy_function=os.symlink)
        row.damage(tmp_path / "model")
    words = [placed(word) for word in row.words]
    if words[0] == "c4d":
        words = words[1:]
    elif words[0] != "generate":
        words = [*generate, *words]
    outcome = c4d(*words)
    assert outcome.code == row.code, outcome
    assert outcome.err.startswith("c4d: error: ") and outcome.err.count("\n") == 1 and outcome.out == ""
    for said in row.said:
        assert placed(said) in outcome.err, (said, outcome.err)
    assert bool(weights) == row.loads
    assert not (tmp_path / "out" / "report.json").exists() and (row.loads or not (tmp_path / "out").exists())


def test_debug_shows_where(c4d, generate):
    outcome = c4d(*generate, "--cache", "forra", "--debug")
    assert outcome.code == 2 and "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("c4d: error: method 'forra'")
