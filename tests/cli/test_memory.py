"""A device that runs out of memory: one line that says what of this command to change. Real ones: tests/ascend."""

from __future__ import annotations

import pytest
import torch

from c4d.backends.reference import Reference

TORCH = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.25 GiB\nof which less is free."
)
ALWAYS = ("a smaller --height, --width or --frames", "the same command goes on")


@pytest.fixture
def full(monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError(TORCH)

    monkeypatch.setattr("c4d.cli.command.produce", run_out)
    monkeypatch.setattr(Reference, "hardware", lambda self: "a small card")
    monkeypatch.setattr(Reference, "default_dtype", torch.bfloat16)
    monkeypatch.setattr(Reference, "advice", lambda self: ["set ROOM=more"])


@pytest.mark.parametrize(
    "given, helps, no_help",
    [
        ((), ("--memory float8+tiled",), ("@blocks", "--history-on", "--dtype")),
        (("--memory", "float8", "--history-dtype", "int8", "--cache", "fora:interval=3"), (), ("int8", "--memory")),
        (("--cache", "fora:interval=3"), ("@blocks", "--history-on host", "--history-dtype int8"), ("--dtype",)),
        (("--cache", "fora:interval=3", "--history-on", "host"), ("@blocks",), ("--history-on",)),
        (("--cache", "taylorseer-lite:interval=3@blocks"), ("--history-on host",), ("@blocks",)),
        (("--dtype", "float32"), ("--dtype bfloat16",), ()),
    ],
)
def test_what_helps_is_said(fails, full, generate, given, helps, no_help):
    said = "c4d: error: out of memory on a small card: 20.00 MiB more were needed; to try: "
    line = fails([*generate, *given], 1, said, "; set ROOM=more; ", *ALWAYS, *helps)
    assert not any(word in line for word in no_help)


def test_another_message_is_passed_on(fails, full, generate, monkeypatch):
    monkeypatch.setattr(f"{__name__}.TORCH", "HIP is full")
    fails(generate, 1, "out of memory on a small card: HIP is full; to try: --memory float8+tiled; a smaller")
