"""The recipe of flux-tiny on a few steps, and the weights in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from c4d.bundled.composition_judge import task_scores
from c4d.bundled.compositions import HELD_OUT, TRAIN, caption, evaluation_set, parse_caption
from tools.train_flux_tiny.__main__ import main
from tools.train_flux_tiny.export import generate
from tools.train_flux_tiny.settings import STAGES, Settings

BUDGET = {
    "vae_steps": 3,
    "vae_batch": 2,
    "pictures": 8,
    "transformer_steps": 3,
    "transformer_batch": 4,
    "distil_steps": 2,
    "distil_batch": 2,
    "judge_pictures": 4,
    "judge_steps": 2,
}
FLAGS = ["--threads", "1", *(f"--{name.replace('_', '-')}={value}" for name, value in BUDGET.items())]
SHIPPED = Path(__file__).resolve().parents[2] / "c4d" / "bundled" / "flux_tiny"


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def pipeline(folder: Path) -> Any:
    from diffusers import FluxPipeline

    pipe: Any = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.nightly
@pytest.mark.usefixtures("one_thread")
def test_all_stages_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, staged = tmp_path / "whole", tmp_path / "staged"
    main([str(whole), *FLAGS])
    for stage in STAGES:  # one by one, after other use of the global generator
        torch.rand(7)
        main([str(staged), "--stage", stage, *FLAGS])
    assert len(weights(whole / "pipe")) == 4
    assert weights(whole / "pipe") == weights(staged / "pipe")
    scores = json.loads((whole / "judge.json").read_text())
    assert list(scores) == [
        *("drawn, seen", "reconstructed, seen", "seen"),
        *("drawn, held_out", "reconstructed, held_out", "held_out"),
    ]
    assert scores["drawn, held_out"]["overall"] == 1.0
    capsys.readouterr()
    main([str(whole), "--stage", "distil", *FLAGS])
    assert "distil: finished before, kept" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(whole), "--stage", "distil", *FLAGS, "--transformer-steps=4"])
    assert "delete it to redo the stage" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with another number of steps, while the rate has not begun to fall."""
    from tools.train_flux_tiny import running
    from tools.train_flux_tiny.vae import train_vae

    monkeypatch.setattr(running, "EVERY", 1)
    whole = train_vae(Settings(**BUDGET | {"vae_steps": 6}), tmp_path / "whole.now")
    keep, left = running.Run.keep, [2]

    def stopping(run: running.Run) -> None:
        keep(run)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(running.Run, "keep", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_vae(Settings(**BUDGET | {"vae_steps": 9}), tmp_path / "stopped.now")
    monkeypatch.setattr(running.Run, "keep", keep)
    resumed = train_vae(Settings(**BUDGET | {"vae_steps": 6}), tmp_path / "stopped.now")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_stage_needs_those_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs = (("latents", "vae"), ("transformer", "latents"), ("distil", "latents"), ("judge", "export"))
    for stage, missing in needs:
        with pytest.raises(SystemExit):
            main([str(tmp_path), "--stage", stage, *FLAGS])
        assert f"run stage '{missing}' first" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{"vae_steps": 0}, {"judge_pictures": 6}, {"seed": -1}])
def test_bad_settings_are_named(bad: dict[str, int]) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}={value}; allowed are"):
        Settings(**bad)


def test_the_transformer_never_sees_held_out_compositions() -> None:
    from tools.train_flux_tiny.vae import training_pictures

    seen = {c for compositions, _ in training_pictures(Settings(pictures=512)) for c in compositions}
    assert len(seen) > 300 and seen <= set(TRAIN)


def test_training_sees_what_the_pipeline_shows() -> None:
    """Text, packing and places are those of FluxPipeline."""
    from diffusers import FluxPipeline

    from tools.train_flux_tiny.transformer import Texts, packed, velocity

    pipe = pipeline(SHIPPED)
    asked, _ = evaluation_set("seen", 4)
    texts = Texts(torch.tensor(asked))
    text, pooled = texts.encode(pipe.text_encoder, pipe.text_encoder_2, torch.tensor([0, 3, texts.empty]), 24)
    prompts = [caption(asked[0]), caption(asked[3]), ""]
    wanted, wanted_pooled, _ = pipe.encode_prompt(prompts, prompts, max_sequence_length=24)
    torch.testing.assert_close((text, pooled), (wanted, wanted_pooled))
    latents = torch.randn(3, 4, 16, 16)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 3, 4, 16, 16))
    calls: list[Any] = []
    handle = pipe.transformer.register_forward_hook(lambda _, args, kwargs, out: calls.append(kwargs), with_kwargs=True)
    generate(pipe, asked[:1], [0], steps=1)
    velocity(pipe.transformer, torch.zeros(1, 64, 16), torch.ones(1), text[:1], pooled[:1], 3.5)
    handle.remove()
    theirs, ours = calls
    for name in ("img_ids", "txt_ids", "timestep", "guidance", "encoder_hidden_states", "pooled_projections"):
        torch.testing.assert_close(ours[name], theirs[name], check_dtype=False)


def test_half_linears_are_the_same_but_for_rounding() -> None:
    from tools.train_flux_tiny.fast import half_linears

    torch.manual_seed(0)
    layer, x = torch.nn.Linear(32, 48), torch.randn(2, 5, 32, requires_grad=True)

    def all_of() -> list[torch.Tensor]:
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y.square().sum().backward()
        found = [y, x.grad, layer.weight.grad, layer.bias.grad]
        return [t.detach().clone() for t in found if t is not None]

    exact = all_of()
    half_linears(layer)
    for close, true in zip(all_of(), exact, strict=True):
        assert close.dtype == torch.float32 and (close - true).norm() < 0.02 * true.norm()


def test_the_models_are_the_bundled_ones() -> None:
    from safetensors.torch import load_file

    from tools.train_flux_tiny.models import make_clip, make_t5, make_tokenizer, make_transformer, make_vae

    vocabulary = make_tokenizer(16, begins=True).get_vocab()
    for name in ("tokenizer", "tokenizer_2"):
        assert json.loads((SHIPPED / name / "tokenizer.json").read_text())["model"]["vocab"] == vocabulary
    built = {
        "transformer/diffusion_pytorch_model": make_transformer(),
        "vae/diffusion_pytorch_model": make_vae(),
        "text_encoder/model": make_clip(len(vocabulary)),
        "text_encoder_2/model": make_t5(len(vocabulary)),
    }
    for file, model in built.items():
        shipped = load_file(SHIPPED / f"{file}.safetensors")
        assert sum(t.numel() for t in shipped.values()) == sum(p.numel() for p in model.parameters())
        assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in shipped.values())


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 10e6


@pytest.mark.usefixtures("one_thread")
def test_it_does_what_the_prompt_says() -> None:
    pipe = pipeline(SHIPPED)
    asked, seeds = evaluation_set("held_out", 8)
    assert all(parse_caption(caption(c)) in HELD_OUT for c in asked)
    pictures = generate(pipe, asked, seeds, steps=50)
    assert torch.isfinite(pictures).all()
    scores = task_scores(pictures, asked)
    assert scores.overall >= 0.6, scores
