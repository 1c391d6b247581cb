"""The real torch_npu where CANN is not: it breaks ``import torch`` and diffusers, and the command says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ascend.install import ROOT, VERSION, environment
from tests.sampled import first_of

LOADER = "libhccl.so: cannot open shared object file: No such file or directory"
WHY = f"torch's extension torch_npu {VERSION} cannot be loaded: ImportError: {LOADER}"
GENERATE = ("--prompt", "a red circle moving left on a black background", "--steps", "2", "--frames", "1")
DOCTOR = ("-m", "c4d", "doctor")
COMMANDS = {
    "generate": ("-m", "c4d", "generate", *GENERATE),
    "launch": ("launch/infer.py", *GENERATE),
    "methods": ("-m", "c4d", "methods"),
    "models": ("-m", "c4d", "models"),
}


@pytest.fixture
def without_cann(libraries, tmp_path):
    """Runs Python where torch_npu is installed and the loader finds nothing of CANN."""

    def run(*command, autoload=True):
        there = environment(libraries)
        for name in ("LD_LIBRARY_PATH", "ASCEND_HOME_PATH", *(["TORCH_DEVICE_BACKEND_AUTOLOAD"] if autoload else [])):
            there.pop(name, None)
        out = ("--out", tmp_path / "out") if "--prompt" in command else ()
        return subprocess.run([sys.executable, *command, *out], cwd=ROOT, env=there, capture_output=True, text=True)

    return run


def test_torch_is_really_broken(without_cann):
    done = without_cann("-c", "import torch")
    assert done.returncode == 1 and "Failed to load the backend extension: torch_npu" in done.stderr


@pytest.mark.parametrize("autoload", first_of([True, False]))
def test_doctor_has_its_whole_page(without_cann, autoload):
    done = without_cann(*DOCTOR, autoload=autoload)
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    failed = {line.split()[0]: line for line in lines[: lines.index("")]}
    assert "CANNOT BE IMPORTED" in title and ("TORCH" in title) == autoload and "DIFFUSERS" in title
    assert list(failed) == [*["torch"] * autoload, "diffusers"]
    assert all(WHY in line for line in failed.values())
    assert ("with TORCH_DEVICE_BACKEND_AUTOLOAD=0" in done.stdout) == autoload
    assert "VERSIONS" in lines and "usable" in done.stdout and "  auto          takes cpu" in lines
    (ascend,) = [line for line in lines if line.startswith("  ascend ")]
    assert f"torch_npu {VERSION} is installed, but cannot be loaded ({LOADER})" in ascend
    npu, none = ascend.split("If it has none: ")
    assert "If this machine has an NPU: " in npu and "source " in npu and "set_env.sh" in npu
    assert none == "pip uninstall torch_npu, since import torch and diffusers fail as long as it is there"


@pytest.mark.parametrize("command", first_of(COMMANDS))
def test_every_other_command_is_one_line(without_cann, command):
    done = without_cann(*COMMANDS[command])
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr == f"c4d: error: torch cannot be imported: {WHY}; c4d doctor says more\n"


@pytest.mark.nightly
def test_debug_shows_where(without_cann):
    done = without_cann(*COMMANDS["methods"], "--debug")
    assert done.returncode == 3 and "Traceback" in done.stderr and "import torch_npu._C" in done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("command", ["generate", "launch"])
def test_without_autoload_diffusers_is_to_blame(without_cann, command):
    done = without_cann(*COMMANDS[command], autoload=False)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr == f"c4d: error: diffusers cannot be imported: {WHY}; c4d doctor says more\n"


@pytest.mark.nightly
def test_without_autoload_what_needs_no_model_works(without_cann):
    done = without_cann(*COMMANDS["methods"], autoload=False)
    assert done.returncode == 0 and "fora:interval" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("autoload", first_of(["0", "1"]))
def test_with_cann_nothing_is_wrong(libraries, autoload):
    there = environment(libraries, TORCH_DEVICE_BACKEND_AUTOLOAD=autoload)
    done = subprocess.run([sys.executable, *DOCTOR], cwd=ROOT, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CANNOT BE IMPORTED" not in done.stdout
    usable, _, device = done.stdout.partition("  ascend        ")[2].splitlines()[:3]
    assert usable == "usable" and "device: Ascend910B3" in device
    assert "takes ascend" in done.stdout
