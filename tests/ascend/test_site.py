"""Programs that know nothing of the simulation run within it, ranks of torchrun too, and launchers do not."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from tests.ascend.install import environment
from tests.ascend.sim.site.sitecustomize import LAUNCHERS, program

RANK = """
import os, torch, torch.distributed as dist

torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("hccl")
x = torch.arange(3.0, device="npu") * (dist.get_rank() + 1)
dist.all_reduce(x)
assert x.device.index == dist.get_rank() and x.tolist() == [0, 3, 6] and torch.get_num_threads() == 1
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("python -u launch/infer.py --seed 1", "infer.py"),
        ("python -m bench.accelerator check", "bench.accelerator"),
        ("python -W error -X dev -mpytest -c x", "pytest"),
        ("python /venv/bin/torchrun --standalone launch/infer.py", "torchrun"),
        ("python -m torch.distributed.run -m worker", "torch.distributed.run"),
        ("python -Es -c pass", ""),
        ("python", ""),
        ("python -", ""),
    ],
)
def test_the_program_of_a_command(command, runs):
    assert program(command.split()) == runs
    assert (runs in LAUNCHERS) == ("torch" in command)


@pytest.mark.nightly  # tests/ascend/test_launch.py starts ranks too
def test_ranks_of_torchrun_compute(libraries, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with tempfile.TemporaryDirectory(prefix="c4d-", dir="/dev/shm") as folder:
        settings = environment(libraries, simulate=True, C4D_SIM_FOLDER=folder)
        done = subprocess.run(
            [*torchrun, tmp_path / "rank.py"], env=settings, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr


def test_a_simulation_that_cannot_start_ends_the_process(libraries, tmp_path):
    (tmp_path / "rank.py").write_text("raise AssertionError('is not reached')")
    settings = {**environment(libraries, simulate=True), "LD_LIBRARY_PATH": ""}
    done = subprocess.run([sys.executable, tmp_path / "rank.py"], env=settings, capture_output=True, text=True)
    assert done.returncode == 70 and "is not reached" not in done.stderr
