"""What is said of a torch_npu that cannot be loaded, with packages that only raise what the real one would."""

from __future__ import annotations

import pytest
import torch

from c4d.backends.ascend import installed

SYMBOL = "torch_npu/lib/libtorch_npu.so: undefined symbol: _ZN3c104impl12PyObjectSlotD1Ev"
LIBRARY = "libascendcl.so: cannot open shared object file: No such file or directory"
TWO = "Two accelerators cannot be used at the same time in PyTorch: npu and cuda."
UNINSTALL = "If it has none: pip uninstall torch_npu, since import torch and diffusers fail as long as it is there"


@pytest.fixture
def trouble(tmp_path, monkeypatch):
    """What is said if ``torch_npu`` of this version raises this at import, next to this torch."""

    def said(error, version, torch_version="2.13.0+cpu", built_for=None):
        (tmp_path / "torch_npu.py").write_text(f"raise {error!r}\n")
        about = tmp_path / f"torch_npu-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(torch, "__version__", torch_version)
        device = built_for and torch.device(built_for)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
        return installed.trouble()

    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.setattr(installed, "PLACES", (str(tmp_path / "cann"), str(tmp_path / "ascend-toolkit")))
    return said


def test_another_version_names_both(trouble):
    text = trouble(ImportError(SYMBOL), "2.7.1.post2")
    assert text.startswith(f"torch_npu 2.7.1.post2 is installed, but cannot be loaded ({SYMBOL}); ")
    assert "torch_npu 2.7.1.post2 needs exactly torch 2.7.1, and this is torch 2.13.0+cpu" in text
    assert "If this machine has an NPU: pip install 'torch_npu==2.13.0.*'. " in text, "CANN is not to blame"
    assert text.endswith(UNINSTALL)


def test_another_version_without_cann_needs_both(trouble):
    text = trouble(ImportError(LIBRARY), "2.7.1", "2.11.0")
    assert "torch_npu 2.7.1 needs exactly torch 2.7.1, and this is torch 2.11.0" in text
    assert "pip install 'torch_npu==2.11.0.*', and install CANN and source its set_env.sh (" in text


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0.post3", "2.13.0rc1"])
def test_the_same_version_is_not_blamed(trouble, version):
    text = trouble(ImportError(LIBRARY), version)
    assert LIBRARY in text and "needs exactly" not in text and "pip install" not in text and "source" in text


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_beside_a_torch_for_another_accelerator(trouble, device):
    text = trouble(RuntimeError(f"{TWO}\n[ERROR] ERR00007"), "2.13.0", "2.13.0+cu130", device)
    assert f"cannot be loaded ({TWO} [ERROR] ERR00007); " in text
    assert f"it takes only a CPU build of torch, and torch 2.13.0+cu130 is built for {device}" in text
    assert "an NPU: pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu. If it has" in text
    assert text.endswith(UNINSTALL) and "set_env.sh" not in text


@pytest.mark.parametrize("where", ["cann", "ascend-toolkit", "elsewhere"])
def test_the_script_of_this_machine_is_named(trouble, tmp_path, monkeypatch, where):
    script = tmp_path / where / "set_env.sh"
    script.parent.mkdir()
    script.touch()
    if where == "elsewhere":
        monkeypatch.setenv("ASCEND_HOME_PATH", str(script.parent / "latest"))
    assert f"If this machine has an NPU: source {script}. If" in trouble(ImportError(LIBRARY), "2.13.0")


def test_without_a_script_both_places_are_named(trouble, tmp_path):
    text = trouble(ImportError(LIBRARY), "2.13.0")
    assert f"{tmp_path}/cann/set_env.sh or, before CANN 8.5, {tmp_path}/ascend-toolkit/set_env.sh" in text
