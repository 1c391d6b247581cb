"""The documented command on the simulated NPU: ``torchrun … launch/infer.py --backend ascend …``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio.v3 as iio
import pytest

from c4d.cli.main import main
from tests.ascend.install import ROOT, environment
from tests.sampled import first_of

CONFIG = """\
prompt: a red circle moving left on a black background
cache: taylorseer-lite:interval=2@blocks
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

    def run(ranks, *more):
        with tempfile.TemporaryDirectory(prefix="c4d-", dir="/dev/shm") as folder:
            return subprocess.run(
                [*command, f"--nproc-per-node={ranks}", *infer, *more],
                env=environment(libraries, simulate=True, C4D_SIM_FOLDER=folder), cwd=ROOT, capture_output=True,
                text=True, timeout=120,
            )  # fmt: skip

    return run


@pytest.mark.slow
@pytest.mark.nightly
def test_one_rank(torchrun, tmp_path):
    done = torchrun(1)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["backend"]["name"] == "ascend" and record["backend"]["hardware"].startswith("Ascend910B3")
    assert record["attention"] == ["transformer: 8 self-attentions and 8 cross-attentions through infer"]
    assert record["session"]["timelines"] == {"cond": "Cr", "uncond": "Cr"} and (tmp_path / "out/video.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize("degrees", first_of([["--cfg", "1", "--ring", "2"], ["--cfg", "1", "--ulysses", "2"]]))
def test_two_ranks(torchrun, tmp_path, degrees):
    """Attention to the tokens of both, over torch_npu's ProcessGroupHCCL; every forward asks both before it decides."""
    done = torchrun(2, *degrees, "--cache", "first-block:threshold=1e9,last=0", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["ranks"][degrees[2].strip("-")] == 2 and record["backend"]["name"] == "ascend"
    assert record["attention"][-1] == "transformer: 8 self-attentions and 8 cross-attentions through fusion"
    assert record["session"]["timelines"] == {"cond": "Cr", "uncond": "Cr"} and record["session"]["host_reads"] == 2
    here = tmp_path / "here"
    command = ["--backend", "cpu", "--cache", "first-block:threshold=1e9,last=0", "--out", here]
    assert main(["generate", "--config", str(tmp_path / "config.yaml"), *map(str, command)]) == 0
    there, alone = (iio.imread(folder / "video.mp4").astype(int) for folder in (tmp_path / "out", here))
    assert abs(there - alone).max() <= 2  # of 255: rounding, through the codec
