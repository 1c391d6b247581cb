"""Before torch: what ``import c4d`` costs, and the command where torch or diffusers cannot be imported."""

from __future__ import annotations

import re

import pytest

import c4d
from c4d.cli.start import AUTOLOAD, TORCH_FAILED
from tests import packages

pytestmark = pytest.mark.slow

BROKEN = "raise OSError('libtoy.so.1 is from\\nanother year')\n"
TOY = {"torch_toy.py": BROKEN, "torch.backends": "toy = torch_toy:autoload"}
WHY = "torch's extension torch-toy 1.5 cannot be loaded: OSError: libtoy.so.1 is from another year"
ABSENT = {"torch.py": "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"}


@pytest.fixture
def python(tmp_path):
    """Runs Python with these files installed; "torch.backends" is the entry point of a package torch-toy 1.5."""

    def run(files, *command):
        made = {name: text for name, text in files.items() if name.endswith(".py")}
        entries = f"[torch.backends]\n{files['torch.backends']}\n" if "torch.backends" in files else ""
        packages.package(tmp_path, "torch-toy", entries, made, version="1.5")
        return packages.python(tmp_path, *command, cwd=tmp_path, without=(AUTOLOAD, TORCH_FAILED))

    return run


def test_importing_c4d_imports_no_torch(python):
    done = python({}, "-c", "import sys, c4d, c4d.cli.start; print('torch' in sys.modules, c4d.__version__, dir(c4d))")
    assert done.stdout.startswith(f"False {c4d.__version__} ") and "'cached'" in done.stdout, done.stderr


FIRST = """
import sys
import c4d
for name in c4d.__all__:
    for module in [module for module in sys.modules if module.partition(".")[0] == "c4d"]:
        del sys.modules[module]
    scope = {}
    exec(f"from c4d import {name}; import c4d; assert c4d.{name} is {name}", scope)
    print(name)
"""


def test_any_public_name_can_be_the_first(python):
    done = python({}, "-c", FIRST)
    assert done.stdout.split() == c4d.__all__, done.stderr


def test_other_names_are_attribute_errors():
    assert set(c4d.__all__) <= set(dir(c4d)) and c4d.methods.taylorseer
    with pytest.raises(AttributeError, match=r"no attribute 'cashed': public are .*cached"):
        c4d.cashed  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'cashed'"):
        from c4d import cashed  # noqa: F401


def test_an_extension_that_breaks_torch(python):
    done = python(TOY, "-m", "c4d", "methods")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"c4d: error: torch cannot be imported: {WHY}; c4d doctor says more\n"
    page = python(TOY, "-m", "c4d", "doctor")
    assert page.returncode == 0 and page.stdout.startswith("TORCH CANNOT BE IMPORTED"), page.stderr
    assert f"  torch         {WHY} (imported for this page with TORCH_DEVICE_BACKEND_AUTOLOAD=0)\n" in page.stdout
    assert re.search(r"^BACKENDS", page.stdout, re.MULTILINE) and "  auto          takes " in page.stdout


def test_an_extension_that_is_no_longer_there(python):
    """Its metadata is: torch then says which one it looked for."""
    done = python({**TOY, "torch_toy.py": "raise ImportError\n", "torch.backends": "toy = gone"}, "-m", "c4d", "models")
    assert done.returncode == 3 and "extension: toy" in done.stderr and "No module named 'gone'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["doctor", "methods"])
def test_without_torch_there_is_no_page(python, command):
    done = python(ABSENT, "-m", "c4d", command)
    assert done.returncode == 3 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("c4d: error: torch cannot be imported: ModuleNotFoundError: No module named 'torch'")
    assert done.stderr.endswith("; install c4d with its dependencies\n")


def test_diffusers_that_fails_is_named(python):
    files = {"diffusers/__init__.py": "raise KeyError('of its own')\n"}
    page = python(files, "-m", "c4d", "doctor")
    assert page.returncode == 0 and page.stdout.startswith("DIFFUSERS CANNOT BE IMPORTED"), page.stderr
    assert "  diffusers     KeyError: 'of its own'\n" in page.stdout
