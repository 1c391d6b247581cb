"""What other packages register is as good as c4d's own: listed, run from the command line, one file each."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from c4d.cli.main import main
from tests.packages import ROOT, commands, package
from tests.pipes import wan_parts
from tests.test_docs import code

pytestmark = pytest.mark.slow

ENTRIES = """\
[c4d.methods]
my-method = mine
fora = taken:fora
gone = no_such_module
nothing = json

[c4d.models]
theirs = their_model
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As pip leaves it: some modules, and what their package says of itself."""
    site = tmp_path_factory.mktemp("site")
    (mine,) = code(ROOT / "docs/adding_a_method.md")
    taken = "import c4d\nfora = c4d.method('fora', example='fora')(lambda: c4d.BlocksRule(None, None))\n"
    theirs = (ROOT / "tests/outside/their_model.py").read_text()
    package(site, "theirs", ENTRIES, {"mine.py": mine, "taken.py": taken, "their_model.py": theirs})
    return site


@pytest.fixture(scope="module")
def folder(tmp_path_factory, site):
    """A tiny pipeline with that transformer, as a directory of diffusers."""
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline

    parts, _ = wan_parts()
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = {name: parts[name] for name in ("text_encoder", "tokenizer")}
    folder = tmp_path_factory.mktemp("theirs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        transformer = import_module("their_model").TheirTransformer()
        LattePipeline(**text, vae=vae, transformer=transformer, scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


def test_they_are_listed_and_run_and_what_cannot_be_is_named(site, folder, tmp_path):
    size = ["--width", "32", "--height", "32", "--steps", "6"]
    asked = ["generate", "--model", folder, "--prompt", "a red circle", *size]
    right, wrong = ["--cache", "my-method:dense=2", "--out", "out"], ["--cache", "my-method:thick=2"]
    methods, models, made, refused = commands(
        site, ["methods"], ["models"], [*asked, *right], [*asked, *wrong], cwd=tmp_path
    )
    assert (methods.code, models.code, made.code, refused.code) == (0, 0, 0, 2), made.err
    assert "my-method:dense=2\n      One sentence. The arXiv id" in methods.out
    assert "fora (taken:fora)           the name fora is taken" in methods.out
    assert "gone (no_such_module)       ModuleNotFoundError" in methods.out
    assert "nothing (json)              TypeError: it is no c4d.Method and holds none" in methods.out
    assert "TheirTransformer\n      Theirs, text to video\n      sites    blocks, output, cross_attn" in models.out
    assert "my-method      " in models.out
    session = json.loads((tmp_path / "out/report.json").read_text())["session"]
    assert session["method"] == "my-method:dense=2" and set(session["timelines"].values()) == {"CCrCrr"}
    assert session["transformers"] == ["TheirTransformer"]
    assert "my-method has no option 'thick': known are dense" in refused.err


def test_without_them_both_are_errors_that_name_what_is_known(folder, capsys):
    for options, words in (
        (["--cache", "my-method:dense=2"], "unknown method 'my-method': known are budcache"),
        (
            ["--model", str(folder), "--cache", "fora:interval=2"],
            "TheirTransformer offers output, for its blocks are not described",
        ),
    ):
        assert main(["generate", "--prompt", "x", *options]) == 2
        assert words in capsys.readouterr().err
