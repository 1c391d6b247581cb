"""Groups of ranks by xfuser 0.7.0 and yunchang 0.6.4: the same as ours, and what is said where they cannot be had."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

from c4d.backends.reference import Reference
from c4d.parallel import groups, xfuser
from c4d.parallel.degrees import Degrees, SequenceParallel, possible
from c4d.parallel.mesh import layout
from tests.xfuser.install import ROOT, XFUSER, NotHere, environment, prepared

EVERY = [degrees for world in range(1, 17) for degrees in possible(world, heads=16, branches=2)]


def alone(site, path):
    """A file of theirs without the package around it, which wants a device."""
    spec = spec_from_file_location(path.replace("/", "_"), site / f"{path}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ranks_are_numbered_as_xfuser_numbers_them(site):
    generator = alone(site, "xfuser/core/distributed/utils").RankGenerator
    for degrees in EVERY:
        theirs = generator(1, degrees.sequence, 1, degrees.cfg, degrees.data, 1, "tp-sp-pp-cfg-dp").get_ranks
        ours = layout(degrees)
        assert ours["sequence"] == theirs("sp"), degrees
        assert ours["cfg"] == theirs("cfg"), degrees
        assert ours["request"] == theirs("tp-sp-pp-cfg"), degrees


def test_ranks_are_numbered_as_yunchang_numbers_them(site, monkeypatch):
    module, made = alone(site, "yunchang/globals"), []
    monkeypatch.setattr(torch.distributed, "new_group", made.append)
    for degrees in EVERY:
        made.clear()
        module.set_seq_parallel_pg(degrees.ulysses, degrees.ring, 0, degrees.world)
        ours = layout(degrees)
        each = degrees.ring + degrees.ulysses  # of a forward's groups: first those of Ulysses, then those of Ring
        theirs = [made[i : i + each] for i in range(0, len(made), each)]
        assert ours["ulysses"] == [ranks for part in theirs for ranks in part[: degrees.ring]], degrees
        assert ours["ring"] == [ranks for part in theirs for ranks in part[degrees.ring :]], degrees


@pytest.mark.slow
def test_ranks(site):
    """Everything that needs processes: one import of xfuser, then 2 and 4 ranks (ranks.py)."""
    command = [sys.executable, "-m", "tests.xfuser.ranks"]
    how = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    done = subprocess.run(command, cwd=ROOT, env=environment(site), **how)
    if done.returncode:
        pytest.fail(done.stdout[-6000:], pytrace=False)
    assert done.stdout.count("as by torch.distributed") == sum(len(possible(world, 8, 2)) for world in (2, 4))


def installed(monkeypatch, version):
    def found(name):
        if version is None:
            raise PackageNotFoundError(name)
        return version

    monkeypatch.setattr(xfuser, "version", found)
    monkeypatch.setitem(sys.modules, "xfuser", None)
    return xfuser.missing(Degrees(2, 1), Reference())


def test_what_keeps_xfuser_from_running_is_said(monkeypatch):
    assert installed(monkeypatch, None) == "xfuser is not installed"
    assert installed(monkeypatch, "0.4.1") == f"xfuser 0.4.1 is installed; c4d knows the groups of {XFUSER}"
    assert installed(monkeypatch, XFUSER).startswith(f"xfuser {XFUSER} cannot be imported here: ModuleNotFoundError")


def test_one_rank_asks_nobody(monkeypatch):
    monkeypatch.setattr(xfuser, "missing", lambda *_: pytest.fail("xfuser was asked for"))
    mesh = groups.make(SequenceParallel(groups="xfuser"), Degrees(1, 1), 0, Reference())
    assert mesh.request is None


def test_groups_are_auto_or_named():
    with pytest.raises(ValueError, match="groups must be 'auto', 'xfuser' or 'torch', got 'nccl'"):
        SequenceParallel(groups="nccl")


def test_new_group_is_put_back(monkeypatch):
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks, **given: given)
    before = torch.distributed.new_group
    with pytest.raises(ZeroDivisionError), xfuser.filled_in(timeout=3, backend="a"):
        assert torch.distributed.new_group([0]) == {"timeout": 3, "backend": "a"}
        assert torch.distributed.new_group([0], backend="b") == {"timeout": 3, "backend": "b"}
        1 / 0  # noqa: B018
    assert torch.distributed.new_group is before


def test_what_is_lacking_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.xfuser.install.WHEELS", ["no-such-package-as-this==0"])
    monkeypatch.setattr("tests.xfuser.install.FOLDER", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(NotHere, match="cannot be installed: ERROR"):
        prepared()
    monkeypatch.setattr("tests.xfuser.install.find_spec", lambda name: None)
    with pytest.raises(NotHere, match="needs triton and diffusers and peft"):
        prepared()


def test_the_tests_have_the_version_that_is_used():
    assert xfuser.VERSION == XFUSER


def test_they_stay_in_their_folder():
    """They would bring a package ``tests`` of their own."""
    assert not any(".venv-xfuser" in path for path in sys.path)
