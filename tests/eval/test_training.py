"""Every stage of tools.train_wan_tiny on a few steps. It learns nothing; it runs, and runs the same twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from c4d.bundled import COMBINATIONS, generate
from tools.train_wan_tiny.__main__ import main
from tools.train_wan_tiny.settings import STAGES, Settings
from tools.training.checkpoints import Checkpoints

BUDGET = {
    "vae_steps": 8,  # the fewest that reach single frames, windows and whole clips
    "vae_batch": 2,
    "clips": 6,
    "decoder_steps": 2,
    "transformer_steps": 3,
    "transformer_batch": 4,
    "judge_clips": 2,
    "judge_steps": 2,
}
FLAGS = ["--threads", "1", *(f"--{name.replace('_', '-')}={value}" for name, value in BUDGET.items())]


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.nightly
@pytest.mark.usefixtures("one_thread")
def test_all_stages_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import WanPipeline

    whole, staged = tmp_path / "whole", tmp_path / "staged"
    main([str(whole), *FLAGS])
    for stage in STAGES:  # one by one, after other use of the global generator
        torch.rand(7)
        main([str(staged), "--stage", stage, *FLAGS])
    assert len(weights(whole / "pipe")) == 3
    assert weights(whole / "pipe") == weights(staged / "pipe")
    for name in ("seen.png", "held_out.png", "judge.json"):
        assert (whole / name).read_bytes() == (staged / name).read_bytes()
    scores = json.loads((whole / "judge.json").read_text())
    assert set(scores) == {"drawn", "reconstructed", "seen", "held_out"}
    assert scores["drawn"]["all_four"] == 1.0

    pipe: Any = WanPipeline.from_pretrained(whole / "pipe")
    pipe.set_progress_bar_config(disable=True)
    clip = generate(pipe, COMBINATIONS[:1], [0], steps=2, guidance_scale=4.0, max_sequence_length=16)
    assert clip.shape == (1, 3, 13, 32, 32) and torch.isfinite(clip).all()

    # A finished stage is not done again ...
    before = {stage: (whole / f"{stage}.pt").stat().st_mtime_ns for stage in STAGES[:4]}
    capsys.readouterr()
    main([str(whole), "--stage", "transformer", *FLAGS])
    assert "transformer: finished before, kept" in capsys.readouterr().out
    assert before == {stage: (whole / f"{stage}.pt").stat().st_mtime_ns for stage in STAGES[:4]}
    # ... nor passed off as the result of other settings.
    with pytest.raises(SystemExit):
        main([str(whole), "--stage", "transformer", *FLAGS, "--transformer-steps=4"])
    assert "delete it to redo the stage" in capsys.readouterr().err
    # Another seed gives other weights.
    main([str(tmp_path / "other"), "--stage", "vae", "--seed", "1", *FLAGS])
    first, other = (torch.load(tmp_path / name / "vae.pt")["content"] for name in ("whole", "other"))
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_transformer_never_sees_held_out_combinations() -> None:
    from c4d.bundled import HELD_OUT
    from tools.train_wan_tiny.vae import training_clips

    seen = {tuple(row) for attributes, _ in training_clips(Settings(clips=1000)) for row in attributes.tolist()}
    assert len(seen) > 180 and seen.isdisjoint({tuple(a) for a in HELD_OUT})


def test_the_tokenizer_is_the_bundled_one(bundled_model: Path) -> None:
    from tools.train_wan_tiny.models import make_tokenizer

    shipped = json.loads((bundled_model / "tokenizer" / "tokenizer.json").read_text())
    assert make_tokenizer().get_vocab() == shipped["model"]["vocab"]


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_the_models_are_the_bundled_ones(part: str, bundled_model: Path) -> None:
    from safetensors.torch import load_file

    from tools.train_wan_tiny.models import make_transformer, make_vae

    shipped = load_file(bundled_model / part / "diffusion_pytorch_model.safetensors")
    built = {"transformer": make_transformer, "vae": make_vae}[part]().state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in shipped.items()}


def test_a_stage_needs_those_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, missing in (("latents", "vae"), ("transformer", "latents"), ("judge", "export")):
        with pytest.raises(SystemExit):
            main([str(tmp_path), "--stage", stage, *FLAGS])
        assert f"run stage '{missing}' first" in capsys.readouterr().err


def test_an_interrupted_save_is_no_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, Settings(**BUDGET))
    with pytest.raises(AttributeError, match="local"):
        kept.save("vae", lambda: None)  # cannot be pickled: stops midway
    with pytest.raises(ValueError, match=r"vae\.pt is missing"):
        kept.load("vae")


@pytest.mark.parametrize("bad", [{"vae_steps": 0}, {"vae_batch": 3}, {"seed": -1}])
def test_bad_settings_are_named(bad: dict[str, int]) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}={value}; allowed are"):
        Settings(**bad)
