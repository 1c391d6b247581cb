"""The documented command, word for word, on the simulated NPU: ``torchrun … launch/infer.py --backend ascend …``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.ascend.install import ROOT, environment

CONFIG = """\
prompt: a red circle moving left on a black background
cache: taylorseer-lite:interval=2@stack
steps: 2
frames: 5
quiet: true
"""


@pytest.fixture
def torchrun(libraries, tmp_path):
    """``torchrun --standalone --nproc-per-node=N launch/infer.py --backend ascend --config …``"""
    (tmp_path / "config.yaml").write_text(f"{CONFIG}out: {tmp_path}/out\n")
    command = [Path(sys.executable).with_name("torchrun"), "--standalone"]
    infer = ["launch/infer.py", "--backend", "ascend", "--config", tmp_path / "config.yaml"]

    def run(ranks):
        with tempfile.TemporaryDirectory(prefix="c4d-", dir="/dev/shm") as folder:
            return subprocess.run(
                [*command, f"--nproc-per-node={ranks}", *infer],
                env=environment(libraries, simulate=True, C4D_SIM_FOLDER=folder), cwd=ROOT, capture_output=True,
                text=True, timeout=120,
            )  # fmt: skip

    return run


@pytest.mark.slow
def test_one_rank(torchrun, tmp_path):
    done = torchrun(1)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["backend"]["name"] == "ascend" and record["backend"]["hardware"].startswith("Ascend910B3")
    assert record["attention"] == ["transformer: 8 self-attentions and 8 cross-attentions through infer"]
    assert record["session"]["timelines"] == {"cond": "Cr", "uncond": "Cr"} and (tmp_path / "out/video.mp4").exists()


@pytest.mark.slow
def test_more_ranks_are_refused(torchrun, tmp_path):
    done = torchrun(2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("c4d: error: ")]
    assert lines and all("WORLD_SIZE=2" in line and "start one rank" in line for line in lines)
    assert done.returncode == 1 and "exitcode  : 2" in done.stderr  # torchrun's own, and what it says of a rank's
    assert not (tmp_path / "out").exists()
