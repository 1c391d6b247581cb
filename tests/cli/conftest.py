"""Running the command in this process, on the bundled model with a handful of steps."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from c4d.cli.main import main
from tests.pipes import text_to_video

PROMPT = "a red circle moving left on a black background"
QUICK = ("--steps", "4", "--frames", "5")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a tiny Wan pipeline of random weights."""
    folder = tmp_path_factory.mktemp("wan")
    text_to_video()[0].save_pretrained(folder)
    return folder


@pytest.fixture
def c4d(capsys, monkeypatch):
    """Runs ``c4d ...`` and gives exit code and both outputs."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def fails(c4d):
    """Runs ``c4d ...`` and gives the one clear line that it ends in, which has every one of ``words``."""

    def run(arguments, code, *words):
        outcome = c4d(*arguments)
        last = outcome.err.strip().splitlines()[-1]
        assert outcome.code == code, outcome.err
        assert last.startswith("c4d: error") and "Traceback" not in outcome.err
        for word in words:
            assert word in last, (word, last)
        return last

    return run


@pytest.fixture
def generate(tmp_path):
    """The words of a quick generation into a folder of its own."""
    return ["generate", "--prompt", PROMPT, *QUICK, "--quiet", "--out", tmp_path / "out"]
