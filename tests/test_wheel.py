"""What is built is whole: installed from a wheel, without the checkout, it generates, on one rank and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import c4d
from tools import dist

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
GENERATE = ["-m", "c4d", "generate", "--prompt", "a red circle", "--steps", "2", "--frames", "1", "--quiet"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs Python elsewhere, where c4d is what the wheel brought; what it requires is that of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "dist").mkdir()
    wheel = dist.build(ROOT, folder / "dist", "wheel")
    dist.check_wheel(wheel, ROOT)
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    (folder / "away").mkdir()

    def run(*words):
        there = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=folder / "away", env=there, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_generates_without_the_checkout(installed):
    code = "import c4d, pathlib; print(c4d.__file__); print((pathlib.Path(c4d.__file__).parent / 'py.typed').exists())"
    where, typed = installed("-c", code).splitlines()
    assert where.endswith("wheel0/site/c4d/__init__.py") and typed == "True"
    assert installed("-m", "c4d", "--version") == f"c4d {c4d.__version__}\n"
    assert "files in out/001-a-red-circle: report.html, image.png" in installed(*GENERATE, "--cache", "fora:interval=2")


@pytest.mark.nightly
def test_torchrun_starts_it(installed):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    installed(*torchrun, *GENERATE, "--cfg", "1", "--ulysses", "2", "--out", "two")
    installed(*GENERATE, "--ranks", "2", "--cfg", "1", "--ulysses", "2", "--out", "also two")
    shown = "import json, sys; print(json.load(open(sys.argv[1]))['ranks']['ulysses'])"
    assert [json.loads(installed("-c", shown, f"{out}/report.json")) for out in ("two", "also two")] == [2, 2]
