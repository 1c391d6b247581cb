"""A text-to-image model through the command line: FLUX with tiny random weights, saved and loaded as the real one."""

from __future__ import annotations

import json
from html import unescape

import pytest

from tests.pipes import flux_with_text


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    flux_with_text().save_pretrained(folder)
    return folder


@pytest.fixture
def generate(saved, tmp_path):
    sizes = ["--height", "64", "--width", "32", "--steps", "6"]
    return ["generate", "--model", saved, "--prompt", "a red circle", *sizes, "--quiet", "--out", tmp_path / "out"]


@pytest.mark.parametrize("attention", ["auto", "own", "math"])
def test_a_picture(c4d, generate, tmp_path, attention):
    outcome = c4d(*generate, "--cache", "taylorseer-lite:interval=2@blocks", "--compare", "--attention", attention)
    assert outcome.code == 0 and outcome.err == "", outcome.err
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["clip"]["frames"] == 1 and (tmp_path / "out" / "image.png").exists()
    assert record["session"]["timelines"] == {"cond": "CrCrCr"} and record["fidelity"]["cached"]["psnr_db"] > 20
    through = {"auto": "through sdpa", "own": "the model's own", "math": "through math"}[attention]
    page = (tmp_path / "out" / "report.html").read_text()
    assert record["attention"][0].endswith(through) and through in unescape(page)


def test_what_does_not_fit_is_told(fails, generate):
    fails([*generate, "--height", "40"], 2, "height 40", "FluxPipeline", "32 and 48")
    fails([*generate, "--frames", "5"], 2, "takes no --frames")
    fails([*generate, "--prompt", "a" * 600], 2, "--prompt has 6", "reads 512")
    fails([*generate, "--negative-prompt", "blue"], 2, "--argument true_cfg_scale=4")
    fails([*generate, "--attention", "flash"], 2, "--attention 'flash'", "known are auto, sdpa, math", "doctor")
    fails([*generate, "--cache", "teacache:threshold=0.1,fit=wan2.1-t2v-1.3b"], 2, "time_embedding", "c4d models")


def test_the_published_fit(c4d, generate):
    assert c4d(*generate, "--cache", "teacache:threshold=0.25,fit=flux.1-dev").code == 0


def test_guidance_by_two_calls_is_an_argument_of_its_own(c4d, fails, generate, tmp_path):
    words = [*generate, "--cache", "taylorseer-lite:interval=2@blocks", "--negative-prompt", "blue"]
    assert c4d(*words, "--argument", "true_cfg_scale=3").code == 0
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["session"]["timelines"].keys() == {"cond", "uncond"}
    fails([*words, "--argument", "true_cfg_scale=4"], 2, "another job", "argument")
    fails([*words, "--argument", "true_cfg_scale=many"], 2, "true_cfg_scale is 'many'", "a number, such as 1")
