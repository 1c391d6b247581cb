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
latte = latte
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As pip leaves it: two modules, and what their package says of itself."""
    site = tmp_path_factory.mktemp("site")
    (mine,) = code(ROOT / "docs/adding_a_method.md")
    taken = "import c4d\nfora = c4d.method('fora', example='fora')(lambda: c4d.BlocksRule(None, None))\n"
    latte = (ROOT / "tests/outside/latte.py").read_text()
    package(site, "theirs", ENTRIES, {"mine.py": mine, "taken.py": taken, "latte.py": latte})
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
def latte(tmp_path_factory):
    """A tiny pipeline of that family, as a directory of diffusers."""
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

    torch.manual_seed(0)
    parts, _ = wan_parts()
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    transformer = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=4,
        patch_size=2, cross_attention_dim=16, caption_channels=64, norm_type="ada_norm_single", norm_eps=1e-6,
        norm_elementwise_affine=False, attention_bias=True, activation_fn="gelu-approximate", video_length=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("latte")
    text = {name: parts[name] for name in ("text_encoder", "tokenizer")}
    LattePipeline(**text, vae=vae, transformer=transformer, scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


def test_they_are_listed_and_what_cannot_be_is_named(c4d):
    methods = c4d("methods")
    assert "my-method:dense=2\n      One sentence. The arXiv id" in methods
    assert "fora (taken:fora)           the name fora is taken" in methods
    assert "gone (no_such_module)       ModuleNotFoundError" in methods
    assert "nothing (json)              TypeError: it is no c4d.Method and holds none" in methods
    models = c4d("models")
    assert "LatteTransformer3DModel\n      Latte, text to video\n      sites    blocks, output, attn" in models
    assert "my-method      " in models


def test_they_run_from_the_command_line(c4d, latte, tmp_path):
    size = ["--width", "32", "--height", "32", "--steps", "6"]
    asked = ["--model", latte, "--prompt", "a red circle", "--out", "latte", *size]
    c4d("generate", "--cache", "my-method:dense=2", *asked)
    session = json.loads((tmp_path / "latte/report.json").read_text())["session"]
    assert session["method"] == "my-method:dense=2" and set(session["timelines"].values()) == {"CCrCrr"}
    assert session["transformers"] == ["LatteTransformer3DModel"]
    said = c4d("generate", "--model", latte, "--cache", "my-method:thick=2", "--prompt", "x", *size, code=2)
    assert "my-method has no option 'thick': known are dense" in said


def test_without_them_both_are_errors_that_name_what_is_known(latte, capsys):
    for options, words in (
        (["--cache", "my-method:dense=2"], "unknown method 'my-method': known are budcache"),
        (
            ["--model", str(latte), "--cache", "fora:interval=2"],
            "LatteTransformer3DModel offers output, for its blocks are not described",
        ),
    ):
        assert main(["generate", "--prompt", "x", *options]) == 2
        assert words in capsys.readouterr().err
