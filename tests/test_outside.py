"""What other packages register is as good as c4d's own: listed, run from the command line, one file each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pipes import wan_parts

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = """\
[c4d.methods]
half-slope = half_slope
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
    for name in ("half_slope", "ltx"):
        (site / f"{name}.py").write_text((ROOT / f"tests/outside/{name}.py").read_text())
    taken = "import c4d\nfora = c4d.method('fora', example='fora')(lambda: c4d.BlocksRule(None, None))\n"
    (site / "taken.py").write_text(taken)
    about = site / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    return site


@pytest.fixture
def c4d(site, tmp_path):
    """Runs the command where the package is installed."""

    def run(*arguments, code=0):
        path = os.pathsep.join([str(site), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-m", "c4d", *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
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
    assert "half-slope:dense=2\n      HalfSlope: gaps that grow" in methods
    assert "fora (taken:fora)           the name fora is taken" in methods
    assert "gone (no_such_module)       ModuleNotFoundError" in methods
    assert "nothing (json)              TypeError: it is no c4d.Method and holds none" in methods
    models = c4d("models")
    assert "LTXVideoTransformer3DModel\n      LTX-Video, text to video\n      sites    blocks, output, attn" in models
    assert "half-slope      " in models


def test_they_run_from_the_command_line(c4d, ltx, tmp_path):
    size = ["--width", "32", "--height", "32", "--frames", "9", "--steps", "6"]
    for model, folder in (("wan-tiny", "wan"), (ltx, "ltx")):
        c4d(
            "generate",
            "--model",
            model,
            "--cache",
            "half-slope:dense=2",
            "--prompt",
            "a red circle",
            *size,
            "--out",
            folder,
        )
        session = json.loads((tmp_path / folder / "report.json").read_text())["session"]
        assert session["method"] == "half-slope:dense=2" and set(session["timelines"].values()) == {"CCrCrr"}
    assert session["transformers"] == ["LTXVideoTransformer3DModel"]
    said = c4d("generate", "--model", ltx, "--cache", "half-slope:thick=2", "--prompt", "x", *size, code=2)
    assert "half-slope has no option 'thick': known are dense" in said


def test_without_them_both_are_errors_that_name_what_is_known(ltx, tmp_path):
    for options, words in (
        (["--cache", "half-slope:dense=2"], "unknown method 'half-slope': known are dpcache"),
        (["--model", str(ltx), "--cache", "fora:interval=2"], "no spec for LTXVideoTransformer3DModel"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "c4d", "generate", "--prompt", "x", *options], capture_output=True, text=True,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 2 and words in done.stderr
