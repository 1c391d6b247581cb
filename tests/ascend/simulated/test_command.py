"""The command on the device: a clip as on the CPU, and one line of error when memory runs out."""

from __future__ import annotations

import gc
import json
from collections import Counter
from contextlib import ExitStack

import pytest
import torch

from c4d.cli import command
from c4d.metrics import psnr
from c4d.pipelines import job
from tests.ascend.simulated.test_memory import limited
from tests.cli.conftest import c4d, fails, generate  # noqa: F401 - fixtures

METHOD = "taylorseer-lite:interval=3@blocks"


@pytest.fixture
def made(c4d, generate, trace, monkeypatch):  # noqa: F811
    """Runs a comparison: what report.json says, the clips, and the attention kernels that ran."""

    def run(backend, dtype):
        clips = {}

        def keeping(*args, **kwargs):
            found = run_interleaved(*args, **kwargs)
            clips.update(found.clips)
            return found

        run_interleaved = job.run_interleaved
        with monkeypatch.context() as patch:
            patch.setattr(job, "run_interleaved", keeping)
            trace()
            outcome = c4d(
                *generate, "--backend", backend, "--dtype", dtype, "--cache", METHOD, "--compare", "--overwrite"
            )
        assert outcome.code == 0, outcome.err
        folder = generate[-1]
        assert (folder / "video.mp4").stat().st_size > 1000
        kernels = Counter(name for name in trace() if "Attention" in name)
        return json.loads((folder / "report.json").read_text()), clips, dict(kernels), folder

    return run


def decibels(one, other):
    return psnr(*(clip.frames.transpose(0, 1)[None] for clip in (one, other))).item()


@pytest.mark.nightly  # tests/ascend/test_launch.py runs the command too
def test_a_clip_is_the_one_of_the_cpu(made):
    here, exact, _, _ = made("cpu", "float32")
    _, rounded, _, _ = made("cpu", "bfloat16")
    attentions = (8 + 8) * 2 * (4 + 2 + 2)  # of each branch and step: uncached, cached, with fewer steps
    for dtype, kernel, short in (
        ("float32", "aclnnFlashAttentionScore", "fusion"),
        ("bfloat16", "aclnnFusedInferAttentionScoreV2", "infer"),
    ):
        there, clips, kernels, folder = made("ascend", dtype)
        assert kernels == {kernel: attentions}
        assert there["backend"]["name"] == "ascend" and there["backend"]["hardware"].startswith("Ascend910B3, CANN ")
        assert there["attention"] == [f"transformer: 8 self-attentions and 8 cross-attentions through {short}"]
        assert "ascend on Ascend910B3" in (folder / "report.html").read_text()
        assert there["session"]["timelines"] == here["session"]["timelines"]
        for kind, clip in clips.items():
            if dtype == "float32":  # the order of sums differs, in every layer of every step: the last bits of fp32
                assert decibels(clip, exact[kind]) > 90
            else:  # other roundings to bf16, that lead as far astray as the CPU's do
                assert decibels(clip, exact[kind]) > decibels(rounded[kind], exact[kind]) - 3, kind


@pytest.mark.nightly
def test_out_of_memory_is_one_line_and_what_is_done_is_kept(c4d, fails, generate, monkeypatch, tmp_path):  # noqa: F811
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "a red circle moving left on a black background\na blue square moving up on a white background\n"
    )
    folder = generate[-1]
    words = ["generate", "--prompt-file", prompts, *generate[3:], "--backend", "ascend", "--cache", "fora:interval=3"]
    produce = command.produce
    with ExitStack() as until_failed, monkeypatch.context() as patch:

        def second_finds_less(*args, **kwargs):
            if (folder / "000").exists():
                gc.collect()  # what earlier tests left would make room
                until_failed.enter_context(limited(torch.npu.memory_allocated() + 3 * 2**20))
            return produce(*args, **kwargs)

        patch.setattr(command, "produce", second_finds_less)
        line = fails(words, 1, "out of memory on Ascend910B3", "--history-on host", "@blocks")
    assert "set PYTORCH_NPU_ALLOC_CONF=expandable_segments:True" in line and "is kept" in line
    assert len((folder / "manifest.jsonl").read_text().splitlines()) == 2 and not (folder / "001").exists()
    outcome = c4d(*words)
    assert outcome.code == 0 and "000: kept" in outcome.out and "001: kept" not in outcome.out
    assert len((folder / "manifest.jsonl").read_text().splitlines()) == 4
