"""Text-to-image models through the command line, with tiny readers of prompts; saved and loaded as the real ones."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from c4d.backends import load
from c4d.parallel import Job, SequenceParallel
from c4d.pipelines import InputError, Request, check_ranks, skeleton
from tests.pipes import dit, hunyuan_image_with_text, qwen_with_text, stable_diffusion

MAKERS = {"qwen": qwen_with_text, "hunyuan-image": hunyuan_image_with_text, "dit": lambda: dit()[0]}
BRANCHES = {"qwen": {"cond", "uncond"}, "hunyuan-image": {"pred_cond", "pred_uncond"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in MAKERS}
    for name, make in MAKERS.items():
        make().save_pretrained(folders[name])
    return folders


@pytest.fixture
def generate(saved, tmp_path):
    def words(name, *more):
        sizes = ["--height", "64", "--width", "32", "--steps", "6"]
        prompt = ["--prompt", 'a red circle with "AB"', "--negative-prompt", "blue"]
        return ["generate", "--model", saved[name], *prompt, *sizes, "--quiet", "--out", tmp_path / "out", *more]

    return words


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("attention", ["auto", "own"])
def test_a_picture(c4d, generate, tmp_path, name, attention):
    outcome = c4d(
        *generate(name, "--cache", "taylorseer-lite:interval=2@blocks", "--compare", "--attention", attention)
    )
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["clip"]["frames"] == 1 and (tmp_path / "out" / "image.png").exists()
    assert (record["clip"]["height"], record["clip"]["width"]) == (64, 32)
    assert record["session"]["timelines"] == dict.fromkeys(BRANCHES[name], "CrCrCr")
    assert record["fidelity"]["cached"]["psnr_db"] > 20
    assert record["attention"][0].endswith("the model's own" if attention == "own" else "through sdpa")


def test_a_letter_without_a_remark_of_the_libraries(c4d, tmp_path, monkeypatch):
    """Of a bundled model, whose files are as they are meant to be."""
    said, listener = [], logging.Handler()
    listener.emit = said.append
    monkeypatch.setattr(logging.getLogger("diffusers"), "handlers", [listener])
    words = ["generate", "--model", "glyph-dit", "--prompt", "A", "--steps", "2", "--cache", "none", "--quiet"]
    assert c4d(*words, "--out", tmp_path / "out").code == 0 and said == []
    assert (tmp_path / "out/image.png").exists()


def test_what_does_not_fit_is_told(fails, generate, caplog):
    fails(generate("qwen", "--height", "40"), 2, "height 40", "QwenImagePipeline", "32 and 48")
    fails(generate("hunyuan-image", "--width", "40"), 2, "width 40", "HunyuanImagePipeline", "32 and 48")
    assert not caplog.records  # diffusers would remark on guiders
    fails(
        generate("qwen", "--guidance-scale", "3"),
        2,
        "ignores --guidance-scale",
        "--argument true_cfg_scale=X, default 4",
    )
    fails(generate("hunyuan-image", "--guidance-scale", "3"), 2, "takes no --guidance-scale")
    fails(generate("qwen", "--frames", "5"), 2, "takes no --frames")
    fails(generate("dit"), 2, "DiTPipeline takes no --negative-prompt", "it takes --prompt, --steps, --guidance-scale")
    fails(generate("qwen", "--cache", "fora:interval=2@total"), 2, "caches at total", "QwenImageTransformer2DModel")


@pytest.mark.parametrize(
    "name, negative, more, calls",
    [
        ("qwen", None, (), 1),
        ("qwen", "blue", (), 2),
        ("qwen", "blue", ("true_cfg_scale=1.0",), 1),
        ("hunyuan-image", None, (), 2),
    ],
)
def test_branches_of_guidance_share_two_ranks_if_there_are_two(saved, name, negative, more, calls):
    request = Request(prompt="a red circle", negative_prompt=negative, argument=more)
    pipe, job = skeleton(str(saved[name])), Job(0, 2, 2)
    found = check_ranks(pipe, SequenceParallel(), job, request, "auto", torch.float32, backend=load("cpu"))
    assert found.cfg == calls and found.ulysses == 2 // calls


def test_a_model_that_is_not_spread_is_told(saved):
    pipe, how, request = skeleton(str(saved["dit"])), SequenceParallel(2, 1, cfg=1), Request(prompt="a red circle")
    with pytest.raises(
        InputError, match="DiTTransformer2DModel cannot be spread over ranks: its spec does not say how"
    ):
        check_ranks(pipe, how, Job(0, 2, 2), request, "auto", torch.float32, backend=load("cpu"))


def test_a_unet_that_nobody_described(c4d, tmp_path):
    """At its output it is cached like any other; what needs its blocks says that they are not described."""
    model, out = tmp_path / "model", tmp_path / "out"
    stable_diffusion().save_pretrained(model)
    asked = ["generate", "--model", model, "--prompt", "a cat", "--height", 64, "--width", 64, "--steps", 6]
    outcome = c4d(*asked, "--cache", "taylorseer-lite:interval=2", "--compare", "--out", out)
    assert outcome.code == 0, outcome.err
    record = json.loads((out / "report.json").read_text())
    assert record["session"]["timelines"] == {"0": "CrCrCr"} and record["session"]["blocks_total"] == 0
    assert record["fewer_steps"] == 3 and "3 computed, 3 reused of 6; at its output" in outcome.out
    outcome = c4d(*asked, "--cache", "fora:interval=2", "--out", tmp_path / "other")
    assert outcome.code == 2 and "its blocks are not described: use 'output'" in outcome.err
