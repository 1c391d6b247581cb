"""What a backend says of the environment its process was started with."""

from __future__ import annotations

import pytest

from c4d.backends import load

NAMES = {
    "cuda": ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    "ascend": ("PYTORCH_NPU_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
}
WAITING = {"cuda": {"CUDA_LAUNCH_BLOCKING": "1"}, "ascend": {"ASCEND_LAUNCH_BLOCKING": "1", "TASK_QUEUE_ENABLE": "0"}}


@pytest.fixture(params=NAMES)
def backend(request, monkeypatch):
    for name in (*NAMES[request.param], *WAITING[request.param]):
        monkeypatch.delenv(name, raising=False)
    return load(request.param)


def test_memory_in_pieces(backend, monkeypatch):
    preferred, other = NAMES[backend.name]
    (said,) = backend.advice()
    assert said.startswith(f"set {preferred}=expandable_segments:True before the process starts")
    monkeypatch.setenv(other, "garbage_collection_threshold:0.8")  # what is set already stays
    (said,) = backend.advice()
    assert f"set {other}=garbage_collection_threshold:0.8,expandable_segments:True" in said
    for enough in ("expandable_segments:True", "max_split_size_mb:128"):
        monkeypatch.setenv(other, enough)
        assert not backend.advice()
    monkeypatch.setenv(preferred, "expandable_segments:True")
    assert backend.advice() == [f"set one of {preferred} and {other}, not both"]


def test_waiting_for_every_call(backend, monkeypatch):
    monkeypatch.setenv(NAMES[backend.name][0], "expandable_segments:True")
    for name, value in WAITING[backend.name].items():
        monkeypatch.setenv(name, value)
    assert backend.advice() == [
        f"unset {name}={value}: it makes the host wait for every call" for name, value in WAITING[backend.name].items()
    ]
    for name in WAITING[backend.name]:
        monkeypatch.setenv(name, "2")
    assert not backend.advice()


def test_the_host_needs_none():
    assert not load("cpu").advice()
