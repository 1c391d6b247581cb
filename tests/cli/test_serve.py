"""``c4d serve`` as a command: what it takes and what it refuses before it listens."""

from __future__ import annotations

import shlex
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from c4d.backends import load
from c4d.cli import serve
from c4d.cli.options import ServeOptions
from c4d.pipelines import InputError, exclusive_lock
from tests.commands import ROOT, accepted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "a"], "unrecognized arguments: --prompt a"),
        (["--ulysses", "2"], "--ulysses"),
        (["--workers", "0"], "--workers is 0"),
        (["--backend", "cpu", "--device", "0"], "backend 'cpu' has one: drop it, and give --workers"),
        (["--queue", "0"], "--queue is 0"),
        (["--timeout", "0"], "--timeout is 0.0"),
        (["--max-steps", "0"], "--max-steps is 0"),
        (["--host", "0.0.0.0"], "give --api-key-file"),
        (["--model", "none-such"], "none-such"),
        (["--quality", "best"], "best"),
        (["--cache", "none-such"], "none-such"),
    ],
)
def test_what_cannot_be_served_is_said(fails, tmp_path, words, said):
    pytest.importorskip("fastapi", reason="c4d serve needs the extra `serve`")
    fails(["serve", *words, "--out", tmp_path / "out"], 2, said)


def test_an_address_or_a_folder_that_is_taken(fails, tmp_path):
    pytest.importorskip("fastapi", reason="c4d serve needs the extra `serve`")
    words = ["serve", "--out", tmp_path / "out", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        fails([*words, other.getsockname()[1]], 2, "cannot be had", "name another")
    (tmp_path / "out").mkdir(exist_ok=True)
    with exclusive_lock(tmp_path / "out"):
        fails([*words, 0], 2, "another process is writing to --out")


def test_where_the_extra_is_missing_its_command_is_said(fails, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    fails(["serve", "--out", tmp_path / "out"], 3, "fastapi cannot be imported", "; pip install fastapi uvicorn")


def test_every_command_of_its_page_is_one():
    lines = [line for line in (ROOT / "docs/serving.md").read_text().splitlines() if line.startswith("c4d serve ")]
    assert len(lines) > 1 and all(isinstance(accepted(*shlex.split(line)[1:]), ServeOptions) for line in lines)


def test_a_worker_for_each_device(monkeypatch):
    monkeypatch.setattr(serve, "backend_of", lambda options: load("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda kind: SimpleNamespace(device_count=lambda: 4))
    assert serve.devices(ServeOptions()) == [0]
    assert serve.devices(ServeOptions(workers=3)) == [0, 1, 2]
    assert serve.devices(ServeOptions(device=(3, 1))) == serve.devices(ServeOptions(device=(3, 1), workers=2)) == [3, 1]
    for options, said in (
        (ServeOptions(workers=5), "no device 4: backend 'cuda' has 4 here"),
        (ServeOptions(device=(7,)), "no device 7"),
        (ServeOptions(device=(0, 1), workers=1), "--workers is 1 and --device has 2"),
    ):
        with pytest.raises(InputError, match=said):
            serve.devices(options)
    assert serve.start_of(ServeOptions(model="some/model"), 2).args[0].threads is None


def test_workers_divide_the_cores_of_a_host(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(serve, "backend_of", lambda options: load("cpu"))
    assert serve.devices(ServeOptions(workers=4)) == [0] * 4
    assert serve.start_of(ServeOptions(model="some/model"), 4).args[0].threads == 4
    assert serve.start_of(ServeOptions(model="some/model", threads=2), 4).args[0].threads == 2
    assert serve.start_of(ServeOptions(), 4).args[0].threads is None  # the bundled model says how many


def test_requests_are_checked_against_the_pipeline_that_is_served(tmp_path):
    """With the scheduler that was asked for, as the workers load it."""
    from c4d.cli.serve import Served
    from c4d.cli.signals import Stops

    served = Served(ServeOptions(out=tmp_path, scheduler="FlowMatchEulerDiscreteScheduler", shift=5.0), Stops())
    assert type(served._pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert served._pipe.scheduler.config.shift == 5.0
