"""Drawn letters, their judge, the class-to-image model in the repository, and how it is made."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")

from c4d.bundled.glyph_judge import (
    NOTHING,
    Classifier,
    accuracy,
    frechet_distance,
    generate_glyphs,
    judge_glyphs,
    load_classifier,
    reading,
)
from c4d.bundled.glyphs import (
    FAMILIES,
    HELD_OUT_PAIRS,
    LETTERS,
    TRAIN_PAIRS,
    TypeCase,
    as_letters,
    letter_index,
    sample_pairs,
)
from tools.train_glyph_dit.__main__ import main
from tools.train_glyph_dit.settings import STAGES, Settings

PACKAGE = Path(__file__).resolve().parents[2] / "c4d" / "bundled"
MODEL = PACKAGE / "glyph_dit"


@pytest.fixture(scope="module")
def letters() -> TypeCase:
    return TypeCase()


@pytest.fixture(scope="module")
def alphabet(letters: TypeCase) -> Tensor:
    """Every letter in two families, [52, 3, 32, 32], A to Z and again."""
    families = torch.tensor([0] * 26 + [2] * 26)
    return letters.draw(torch.arange(52) % 26, families, torch.Generator().manual_seed(3))


def test_split_is_disjoint_and_complete() -> None:
    assert (len(TRAIN_PAIRS), len(HELD_OUT_PAIRS)) == (161, 21)
    assert set(TRAIN_PAIRS).isdisjoint(HELD_OUT_PAIRS)
    for column, names in enumerate((LETTERS, tuple(FAMILIES))):
        assert {pair[column] for pair in TRAIN_PAIRS} == set(range(len(names)))
    digest = hashlib.sha256(repr(HELD_OUT_PAIRS).encode()).hexdigest()
    assert digest[:16] == "1ad9a8cf2e9ef4fb"  # the weights were trained on this split


def test_drawing_depends_on_the_generator_alone(letters: TypeCase) -> None:
    def pictures(seed: int) -> tuple[Tensor, Tensor]:
        return letters.sample(6, torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first, asked = pictures(3)
    torch.manual_seed(2)
    assert torch.equal(first, pictures(3)[0]) and torch.equal(asked, pictures(3)[1])
    assert not torch.equal(first, pictures(4)[0])
    assert first.shape == (6, 3, 32, 32) and first.dtype == torch.float32 and asked.dtype == torch.int64
    assert first.min() >= 0 and first.max() <= 1


def test_drawing_is_the_one_that_the_weights_were_trained_on(letters: TypeCase) -> None:
    """A changed order of draws would change the paper, another font or place how much ink there is."""
    pictures = letters.draw(torch.tensor([0, 17]), torch.tensor([2, 0]), torch.Generator().manual_seed(0))
    paper = torch.tensor([[0.758840, 0.949662, 0.767763], [0.821163, 0.981095, 0.614466]])
    torch.testing.assert_close(pictures[:, :, 0, 0], paper, rtol=0, atol=2e-5)
    # Fonts are drawn by the library that Pillow was built with, so a little leeway.
    torch.testing.assert_close(pictures.mean((1, 2, 3)), torch.tensor([0.7683, 0.7086]), rtol=0, atol=3e-3)


def test_a_picture_is_ink_on_paper(alphabet: Tensor) -> None:
    paper = alphabet[:, :, :1, :1]
    corners = alphabet[:, :, ::31, ::31]
    assert torch.equal(corners, paper.expand_as(corners))  # a wide letter may touch a side, but no corner
    covered = ((alphabet - paper).abs().amax(1) > 0.1).float().mean((1, 2))
    assert covered.min() > 0.02 and covered.max() < 0.5
    assert ((alphabet - paper).abs().amax((1, 2, 3)) > 0.2).all()


def test_sampling_stays_in_the_pool() -> None:
    drawn = sample_pairs(400, torch.Generator().manual_seed(0), HELD_OUT_PAIRS)
    assert {tuple(row) for row in drawn.tolist()} == set(HELD_OUT_PAIRS)


def test_labels() -> None:
    assert [letter_index(label) for label in ("A", " z ", "b")] == [0, 25, 1]
    assert [letter_index(label) for label in ("", "AB", "1", "é")] == [None] * 4


def test_bad_input_is_named(letters: TypeCase, alphabet: Tensor) -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"letter index 26 is unknown; allowed are 0 \(A\), .* 25 \(Z\)"):
        as_letters([0, 26])
    with pytest.raises(ValueError, match=r"letter indices have dtype torch\.float32; allowed are integer types"):
        as_letters(torch.zeros(2))
    with pytest.raises(ValueError, match=r"letter indices have shape \(\); allowed is \[n\]"):
        as_letters(torch.tensor(3))
    with pytest.raises(ValueError, match=r"family index -1 is unknown; allowed are 0 \(dejavu-sans\)"):
        letters.draw(torch.tensor([0]), torch.tensor([-1]), generator)
    with pytest.raises(ValueError, match="2 letters but 1 families"):
        letters.draw(torch.tensor([0, 1]), torch.tensor([0]), generator)
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\); allowed is \[n, 3, 32, 32\]"):
        judge_glyphs(alphabet[0])
    with pytest.raises(ValueError, match=r"dtype torch\.uint8"):
        judge_glyphs((alphabet * 255).byte())
    with pytest.raises(ValueError, match=r"values from -.* to .*; allowed is \[0, 1\]"):
        judge_glyphs(alphabet * 2 - 1)
    with pytest.raises(ValueError, match="2 pictures but 3 letters"):
        accuracy(alphabet[:2], torch.arange(3))
    with pytest.raises(ValueError, match=r"features b have shape \(4, 5\); allowed is \[n, 3\] with n above that"):
        frechet_distance(torch.rand(9, 3), torch.rand(4, 5))
    with pytest.raises(ValueError, match="features a are not finite"):
        frechet_distance(torch.full((9, 3), float("nan")), torch.rand(9, 3))
    with pytest.raises(ValueError, match="1 seeds for 2 letters"):
        generate_glyphs(None, [0, 1], [5])
    with pytest.raises(ValueError, match="batch_size=0"):
        generate_glyphs(None, [0], [5], batch_size=0)
    with pytest.raises(FileNotFoundError, match="weights of the judge are missing"):
        load_classifier("nowhere.safetensors")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"c4d\[eval\]"):
        TypeCase()


def test_the_distance_of_known_normal_distributions() -> None:
    """Whitened samples have exactly the moments that the formula is told; diagonal covariances have a closed answer."""
    x = torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    deviations, shift = torch.tensor([1.0, 2.0, 3.0, 0.5]).double(), torch.tensor([0.0, 1.0, 0.0, 2.0]).double()
    expected = (shift**2).sum() + ((deviations - 1) ** 2).sum()
    assert frechet_distance(white, white * deviations + shift) == pytest.approx(expected.item(), abs=1e-9)
    assert frechet_distance(white, white) == pytest.approx(0, abs=1e-9)
    mixed = white @ torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0.2, 0, 0, 2]]).double()
    assert frechet_distance(white, mixed) == pytest.approx(frechet_distance(mixed, white), abs=1e-9)


def test_the_judge_reads_drawn_letters(letters: TypeCase) -> None:
    for pairs, least in ((TRAIN_PAIRS, 0.98), (HELD_OUT_PAIRS, 0.93)):
        pictures, asked = letters.sample(260, torch.Generator().manual_seed(1), pairs)
        assert accuracy(pictures, asked) >= least
        assert accuracy(pictures.double(), asked) == accuracy(pictures, asked)
    assert accuracy(pictures, (asked + 1) % 26) < 0.02


def test_the_judge_sees_nothing_where_there_is_nothing(alphabet: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    blank = torch.rand(20, 3, 1, 1, generator=generator).expand(-1, -1, 32, 32)
    noise = torch.rand(20, 3, 32, 32, generator=generator)
    broken = alphabet[:4].clone()
    broken[:, 0, 5, 5] = float("nan")
    for pictures in (blank, noise, broken):
        judged = judge_glyphs(pictures)
        assert (judged.predicted == -1).all()
    assert judged.probability.isnan().all()


def test_a_picture_is_judged_for_itself(alphabet: Tensor) -> None:
    together, alone = judge_glyphs(alphabet[:5]), [judge_glyphs(alphabet[i : i + 1]) for i in range(5)]
    assert torch.equal(together.predicted, torch.cat([one.predicted for one in alone]))
    torch.testing.assert_close(together.features, torch.cat([one.features for one in alone]))


def test_readings(alphabet: Tensor) -> None:
    assert reading("A", alphabet[:1]) == {"seen": "A", "as_asked": True}
    assert reading("b", alphabet[:1]) == {"seen": "A", "as_asked": False}
    assert reading("A", torch.full((1, 3, 32, 32), 0.5)) == {"seen": None, "as_asked": False}
    assert reading("a red circle", alphabet[:1]) is None
    assert reading("A", alphabet[:2]) is None and reading("A", torch.rand(1, 3, 64, 64)) is None


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 8e6
    assert (PACKAGE / "glyph_judge.safetensors").stat().st_size <= 0.5e6


@pytest.mark.slow
def test_it_draws_what_is_asked() -> None:
    from diffusers import DiTPipeline

    pipe: Any = DiTPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    pictures = generate_glyphs(pipe, torch.arange(26), range(5000, 5026), steps=20)
    assert accuracy(pictures, torch.arange(26)) >= 0.9


def test_the_models_are_the_bundled_ones() -> None:
    from safetensors.torch import load_file

    from tools.train_glyph_dit.models import make_scheduler, make_transformer, make_vae

    for part, built in (("transformer", make_transformer()), ("vae", make_vae())):
        shipped = load_file(MODEL / part / "diffusion_pytorch_model.safetensors")
        assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in shipped.items()}
        assert all(value.dtype == torch.float32 for value in shipped.values())
    kept = json.loads((MODEL / "scheduler" / "scheduler_config.json").read_text())
    assert {name: kept[name] for name in make_scheduler().config if not name.startswith("_")} == {
        name: value for name, value in make_scheduler().config.items() if not name.startswith("_")
    }


BUDGET = {
    "vae_steps": 2,
    "vae_batch": 2,
    "pictures": 6,
    "classifier_steps": 2,
    "classifier_batch": 8,
    "transformer_steps": 2,
    "transformer_batch": 2,
    "judge_pictures": 97,
    "judge_steps": 1,
}
FLAGS = ["--threads", "1", *(f"--{name.replace('_', '-')}={value}" for name, value in BUDGET.items())]


@pytest.mark.usefixtures("one_thread")
def test_the_recipe_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage on a few steps. It learns nothing; it runs, keeps what is finished, and goes on where it was."""
    monkeypatch.setattr("tools.train_glyph_dit.export.GUIDANCE", (1.0, 2.0))
    monkeypatch.setattr("tools.train_glyph_dit.classifier.TESTS", 1)
    main([str(tmp_path), *FLAGS])
    scores = json.loads((tmp_path / "judge.json").read_text())
    assert [*scores] == [
        "drawn", "drawn, held-out pairs", "reconstructed", "generated, guidance 1", "generated, guidance 2"
    ]  # fmt: skip
    from diffusers import DiTPipeline

    pipe: Any = DiTPipeline.from_pretrained(tmp_path / "pipe")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.get_label_ids(["A", "Z"]) == [0, 25]
    assert generate_glyphs(pipe, [0], [0], steps=1).shape == (1, 3, 32, 32)
    capsys.readouterr()
    main([str(tmp_path), "--stage", "transformer", *FLAGS])
    assert "transformer: finished before, kept" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--stage", "transformer", *FLAGS, "--transformer-steps=4"])
    assert "delete it to redo the stage" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_stopped_stage_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    from tools.train_glyph_dit.progress import Progress
    from tools.train_glyph_dit.transformer import averaged, train_transformer

    settings = Settings(**{**BUDGET, "transformer_steps": 4})
    generator = torch.Generator().manual_seed(0)
    data = {
        "latents": torch.randn(6, 4, 16, 16, generator=generator),
        "letters": torch.arange(6),
        "std": torch.tensor(1.0),
    }
    whole = train_transformer(settings, data, Progress(tmp_path, settings, "transformer", every=3))
    again = train_transformer(settings, data, Progress(tmp_path, settings, "transformer", every=3))  # from step 3
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    unfinished = averaged(Progress(tmp_path, settings, "transformer"))
    assert any(not torch.equal(whole[name], unfinished[name]) for name in whole)
    other = Settings(**{**BUDGET, "transformer_steps": 5})
    with pytest.raises(ValueError, match="delete it to redo the stage"):
        train_transformer(other, data, Progress(tmp_path, other, "transformer"))


def test_classes_without_a_letter_say_nothing() -> None:
    from safetensors.torch import load_file

    weights = load_file(MODEL / "transformer" / "diffusion_pytorch_model.safetensors")
    tables = [value for name, value in weights.items() if "embedding_table" in name]
    assert len(tables) == 6
    for table in tables:
        assert (table[26:1000] == 0).all() and (table[:26].abs().sum(1) > 0).all() and table[1000].abs().sum() > 0


def test_there_is_an_answer_for_no_letter() -> None:
    scores, features = Classifier()(torch.rand(2, 3, 32, 32))
    assert scores.shape == (2, NOTHING + 1) and features.shape == (2, 96)


def test_a_stage_needs_those_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert STAGES[0] == "vae"
    for stage, missing in (
        ("latents", "vae"),
        ("transformer", "latents"),
        ("export", "transformer"),
        ("judge", "export"),
    ):
        with pytest.raises(SystemExit):
            main([str(tmp_path), "--stage", stage, *FLAGS])
        assert f"run stage '{missing}' first" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{"vae_steps": 0}, {"judge_pictures": 96}, {"seed": -1}])
def test_bad_settings_are_named(bad: dict[str, int]) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}={value}; allowed are"):
        Settings(**bad)
