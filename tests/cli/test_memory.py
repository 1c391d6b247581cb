"""A device that runs out of memory: one line that says what of this command to change. Real ones: tests/ascend."""

from __future__ import annotations

import json

import pytest
import torch

from c4d.backends.reference import Reference
from c4d.pipelines.job import produce
from tests.cli.conftest import PROMPT

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


def test_text_encoders_that_run_first_are_gone_and_the_clips_are_the_same(c4d, generate, tmp_path, monkeypatch):
    file, held = tmp_path / "prompts.txt", []
    file.write_text("a red circle moving left on a black background\na blue square moving up on a white background\n")
    words = [word for word in generate if word not in ("--prompt", PROMPT)]

    def noted(pipe, *args, **kwargs):
        held.append(isinstance(pipe.text_encoder, torch.nn.Module))
        return produce(pipe, *args, **kwargs)

    monkeypatch.setattr("c4d.cli.command.produce", noted)
    digests = []
    for more in ((), ("--encode-first",)):
        out = tmp_path / f"out{len(digests)}"
        outcome = c4d(*words[:-1], out, "--prompt-file", file, "--cache", "taylorseer-lite:interval=2", *more)
        assert outcome.code == 0, outcome.err
        records = [json.loads((out / name / "report.json").read_text()) for name in ("000", "001")]
        digests.append([record["files"]["video.mp4"]["sha256"] for record in records])
    said = "text encoders: 2 prompts encoded beforehand, then given back"
    assert digests[0] == digests[1] and all(said in record["notes"] for record in records)
    assert held == [True, True, False, False]


def test_a_model_without_text_cannot_encode_it_first(fails, generate):
    words = ["generate", "--model", "glyph-dit", "--prompt", "a", "--out", generate[-1], "--encode-first"]
    fails(words, 2, "--encode-first: DiTPipeline has no encode_prompt", "leave it out")


def test_a_rollout_does_not_encode_first(fails, tmp_path):
    fails(
        ["rollout", "--prompt", PROMPT, "--encode-first", "--out", tmp_path / "clip"], 2, "a rollout encodes one prompt"
    )
