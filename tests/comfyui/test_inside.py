"""Runs the tests in ``inside`` with ComfyUI's own samplers, models and conditions.

One alone, by hand: ``python -m tests.comfyui.test_inside -k interrupt``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.comfyui.install import ROOT, environment, prepared

INSIDE = Path(__file__).parent / "inside"


def run(site, *options, **how):
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", INSIDE, *options]
    return subprocess.run(command, cwd=ROOT, env=environment(site), text=True, **how)


@pytest.mark.nightly
def test_inside(site):
    done = run(site, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    if done.returncode:
        pytest.fail(done.stdout[-6000:], pytrace=False)


if __name__ == "__main__":
    sys.exit(run(prepared(), *sys.argv[1:]).returncode)
