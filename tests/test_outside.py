"""What other packages register is as good as c4d's own: listed, run from the command line, one file each."""

from __future__ import annotations

import json

import pytest
import torch

from c4d.cli.main import main
from tests.packages import ROOT, package, python
from tests.pipes import wan_parts
from tests.test_docs import code

ENTRIES = """\
[c4d.methods]
my-method = mine
fora = taken:fora
gone = no_such_module
nothing = json

[c4d.models]
ltx = ltx
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As pip leaves it: two modules, and what their package says of itself."""
    site = tmp_path_factory.mktemp("site")
    (mine,) = code(ROOT / "docs/adding_a_method.md")
    taken = "import c4d\nfora = c4d.method('fora', example='fora')(lambda: c4d.BlocksRule(None, None))\n"
    ltx = (ROOT / "tests/outside/ltx.py").read_text()
    package(site, "theirs", ENTRIES, {"mine.py": mine, "taken.py": taken, "ltx.py": ltx})
    return site


@pytest.fixture
def c4d(site, tmp_path):
    """Runs the command where the package is installed."""

    def run(*arguments, code=0):
        done = python(site, "-m", "c4d", *arguments, cwd=tmp_path)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def ltx(tmp_path_factory):
    """A tiny pipeline of that family, as a directory of diffusers."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    parts, _ = wan_parts()
    four, five = (8,) * 4, (1,) * 5
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=four, decoder_block_out_channels=four, layers_per_block=five,
        decoder_layers_per_block=five, spatio_temporal_scaling=(True, True, False, False), patch_size=1, patch_size_t=1,
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=3, caption_channels=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("ltx")
    text = {name: parts[name] for name in ("text_encoder", "tokenizer")}
    LTXPipeline(FlowMatchEulerDiscreteScheduler(), vae, **text, transformer=transformer).save_pretrained(folder)
    return folder


def test_they_are_listed_and_what_cannot_be_is_named(c4d):
    methods = c4d("methods")
    assert "my-method:dense=2\n      One sentence. The arXiv id" in methods
    assert "fora (taken:fora)           the name fora is taken" in methods
    assert "gone (no_such_module)       ModuleNotFoundError" in methods
    assert "nothing (json)              TypeError: it is no c4d.Method and holds none" in methods
    models = c4d("models")
    assert "LTXVideoTransformer3DModel\n      LTX-Video, text to video\n      sites    blocks, output, attn" in models
    assert "my-method      " in models


def test_they_run_from_the_command_line(c4d, ltx, tmp_path):
    size = ["--width", "32", "--height", "32", "--frames", "9", "--steps", "6"]
    asked = ["--model", ltx, "--prompt", "a red circle", "--out", "ltx", *size]
    c4d("generate", "--cache", "my-method:dense=2", *asked)
    session = json.loads((tmp_path / "ltx/report.json").read_text())["session"]
    assert session["method"] == "my-method:dense=2" and set(session["timelines"].values()) == {"CCrCrr"}
    assert session["transformers"] == ["LTXVideoTransformer3DModel"]
    said = c4d("generate", "--model", ltx, "--cache", "my-method:thick=2", "--prompt", "x", *size, code=2)
    assert "my-method has no option 'thick': known are dense" in said


def test_without_them_both_are_errors_that_name_what_is_known(ltx, capsys):
    for options, words in (
        (["--cache", "my-method:dense=2"], "unknown method 'my-method': known are dpcache"),
        (["--model", str(ltx), "--cache", "fora:interval=2"], "no spec for LTXVideoTransformer3DModel"),
    ):
        assert main(["generate", "--prompt", "x", *options]) == 2
        assert words in capsys.readouterr().err
