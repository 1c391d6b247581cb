"""Runs the tests in ``simulated`` with the real torch_npu over a stand-in for CANN: no NPU is needed, none is shown.

In processes of their own, started with the environment that torch_npu needs. What ``make nightly`` and ``make
test-ascend`` run beyond a sample, they run in there too. One test alone, by hand:
``python -m tests.ascend.test_simulated test_order.py -k pinned``.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ascend.install import ROOT, NotHere, environment, prepared
from tests.sampled import first_of

SIMULATED = Path(__file__).parent / "simulated"
APART = {"ranks": ["test_ranks.py"], "mutations": ["test_mutations.py"]}
PRIMITIVES = ["tests/backends", "-p", "tests.ascend.simulated.conftest"]  # every backend's, told to take the device
SHARES = {
    **APART,
    "rest": sorted({path.name for path in SIMULATED.glob("test_*.py")}.difference(*APART.values())),
    "primitives": PRIMITIVES,
}


def run(libraries, *options, chip="Ascend910B3", queue=0, **how):
    """``options`` of pytest; names of files in ``simulated`` are found there."""
    settings = {"C4D_SIM_SOC": chip, "TASK_QUEUE_ENABLE": queue} | (
        {"C4D_TEST_DEVICE": 1} if PRIMITIVES[0] in options else {}
    )
    options = [SIMULATED / each if (SIMULATED / each).is_file() else each for each in options]
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *options]
    return subprocess.run(command, cwd=ROOT, env=environment(libraries, **settings), text=True, **how)


@pytest.fixture
def passes(libraries, pytestconfig):
    """Runs files of ``simulated``: a sample where this run is of a sample, else all of them."""
    chosen = pytestconfig.getoption("markexpr")
    return functools.partial(check, libraries, "-m", chosen if "not nightly" in chosen else "")


def check(libraries, *options, **how):
    try:
        done = run(libraries, *options, **how, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{options} did not end:\n{(late.stdout or b'').decode()[-6000:]}", pytrace=False)
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "share", [pytest.param(share, marks=pytest.mark.nightly if share == "mutations" else ()) for share in SHARES]
)
def test_simulated(passes, share):
    passes(*SHARES[share])


@pytest.mark.parametrize("chip", first_of(["Ascend950DT_9571", "Ascend910A"]))
def test_another_chip(passes, chip):
    passes("test_chips.py", chip=chip)


@pytest.mark.nightly
def test_operators_that_a_second_thread_launches(passes):
    """As users are told to set it: TASK_QUEUE_ENABLE=2."""
    passes("test_backend.py", "test_order.py", queue=2)


@pytest.mark.parametrize(
    "lacks, says",
    [
        (("shutil.which", lambda tool: None), "no gcc"),
        (("sys.platform", "darwin"), "built for Linux"),
        (("importlib.metadata.version", lambda name: "2.11.0+cu130"), "this is torch 2.11.0"),
    ],
    ids=["gcc", "platform", "torch"],
)
def test_what_is_lacking_is_named(lacks, says, monkeypatch):
    monkeypatch.setattr(f"tests.ascend.install.{lacks[0]}", lacks[1])
    with pytest.raises(NotHere, match=says):
        prepared()


def test_torch_npu_stays_in_its_folder():
    """It would break ``import torch`` of everybody."""
    assert "torch_npu" not in sys.modules
    assert not any("torch_npu" in path for path in sys.path)


if __name__ == "__main__":
    sys.exit(run(prepared(), *sys.argv[1:]).returncode)
