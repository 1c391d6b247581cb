"""Runs every file of ``simulated`` with the real torch_npu over a stand-in for CANN: no NPU is needed, none is shown.

One process a file, started with the environment that torch_npu needs. One test alone, by hand:
``python -m tests.ascend.test_simulated test_order.py -k pinned``.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.ascend.install import ROOT, NotHere, environment, prepared

SIMULATED = Path(__file__).parent / "simulated"
FILES = sorted(path.name for path in SIMULATED.glob("test_*.py"))


def run(libraries, file, *options, **how):
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", SIMULATED / file, *options]
    return subprocess.run(command, cwd=ROOT, env=environment(libraries), text=True, **how)


@pytest.fixture(scope="session")
def libraries():
    try:
        return prepared()
    except NotHere as why:
        warnings.warn(f"NOT TESTED: the Ascend simulation cannot run here: {why}", stacklevel=1)
        pytest.skip(str(why))


@pytest.mark.parametrize("file", FILES)
def test_simulated(libraries, file):
    try:
        done = run(libraries, file, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{file} did not end:\n{(late.stdout or b'').decode()[-6000:]}", pytrace=False)
    print(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)


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
