from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from c4d.bundled import COLOURS, SHAPES, Adherence, adherence, as_tensor, evaluation_set, judge, render

FIELDS = ("colour", "shape", "motion", "background")


def fractions(scores: Adherence) -> dict[str, float]:
    return {field: getattr(scores, field) for field in FIELDS}


def test_drawn_clips_are_perfect(drawn: Tensor, combinations: Tensor) -> None:
    scores = adherence(drawn, combinations)
    assert fractions(scores) == dict.fromkeys(FIELDS, 1.0)
    assert scores.all_four == 1.0 and scores.clips == 216
    assert 0.95 < scores.shape_iou < 1.0


def test_a_second_drawing_is_perfect_too(combinations: Tensor) -> None:
    clips = render(combinations, torch.Generator().manual_seed(12))
    assert torch.equal(judge(clips).predicted, combinations)


def recolour(drawn: Tensor, asked: Tensor) -> Tensor:
    """The next colour in the object's place: same coverage, same background."""
    palette = torch.tensor(list(COLOURS.values()))
    old, new = palette[asked[:, 0]], palette[(asked[:, 0] + 1) % len(palette)]
    backdrop = drawn[:, :, :, :1, :1]
    direction = old.view(-1, 3, 1, 1, 1) - backdrop
    cover = ((drawn - backdrop) * direction).sum(1, keepdim=True) / direction.square().sum(1, keepdim=True)
    cover = cover.clamp(0, 1)
    return cover * new.view(-1, 3, 1, 1, 1) + (1 - cover) * backdrop


def reshape(drawn: Tensor, asked: Tensor) -> Tensor:
    other = asked.clone()
    other[:, 1] = (other[:, 1] + 1) % len(SHAPES)
    return render(other, torch.Generator().manual_seed(11))  # the seed of `drawn`: path and tint stay


def reverse(drawn: Tensor, asked: Tensor) -> Tensor:
    return drawn.flip(2)


def rebackground(drawn: Tensor, asked: Tensor) -> Tensor:
    other = asked.clone()
    other[:, 3] = (other[:, 3] + 1) % 3
    return render(other, torch.Generator().manual_seed(11))


@pytest.mark.parametrize(
    ("mutate", "lowered"),
    [(recolour, "colour"), (reshape, "shape"), (reverse, "motion"), (rebackground, "background")],
)
def test_a_mutation_lowers_its_attribute_alone(mutate, lowered: str, drawn: Tensor, combinations: Tensor) -> None:
    scores = adherence(mutate(drawn, combinations), combinations)
    expected = dict.fromkeys(FIELDS, 1.0) | {lowered: 0.0}
    assert fractions(scores) == expected
    assert scores.all_four == 0.0


def test_fractions_count_clips(drawn: Tensor, combinations: Tensor) -> None:
    mixed = drawn[:8].clone()
    mixed[:2] = mixed[:2].flip(2)
    scores = adherence(mixed, combinations[:8])
    assert fractions(scores) == {"colour": 1.0, "shape": 1.0, "motion": 0.75, "background": 1.0}
    assert scores.all_four == 0.75
    assert dataclasses.asdict(scores)["clips"] == 8


@pytest.mark.parametrize("level", [0.06, 0.5, 0.94])
def test_a_blank_video_has_no_object(level: float) -> None:
    judgement = judge(torch.full((2, 3, 13, 32, 32), level))
    assert (judgement.predicted[:, :3] == -1).all()
    assert (judgement.predicted[:, 3] == [0.06, 0.5, 0.94].index(level)).all()  # its background is still clear
    assert (judgement.shape_iou == 0).all()


def test_noise_has_no_object() -> None:
    noise = torch.rand(8, 3, 13, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (judge(noise).predicted[:, :3] == -1).all()


def test_a_tinted_background_is_no_background() -> None:
    tinted = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1, 1).expand(1, 3, 13, 32, 32)
    assert judge(tinted).predicted.tolist() == [[-1, -1, -1, -1]]


def test_nan_is_nothing(drawn: Tensor) -> None:
    broken = drawn[:2].clone()
    broken[0, 0, 4] = float("nan")
    predicted = judge(broken).predicted
    assert predicted[0].tolist() == [-1, -1, -1, -1]
    assert (predicted[1] >= 0).all()


def test_a_still_object_has_no_motion(drawn: Tensor, combinations: Tensor) -> None:
    still = drawn[:12, :, 6:7].expand(-1, -1, 13, -1, -1)
    predicted = judge(still).predicted
    assert (predicted[:, 2] == -1).all()
    assert torch.equal(predicted[:, [0, 1, 3]], combinations[:12, [0, 1, 3]])


def test_a_short_path_is_no_motion(combinations: Tensor) -> None:
    short = render(combinations[::9], torch.Generator().manual_seed(3), frames=5)  # a third of the way
    predicted = judge(short).predicted
    assert (predicted[:, 2] == -1).all()
    assert torch.equal(predicted[:, [0, 1, 3]], combinations[::9][:, [0, 1, 3]])


def test_a_diagonal_path_is_no_motion() -> None:
    clip = torch.full((2, 3, 13, 32, 32), 0.06)
    for t in range(13):
        for row, top in enumerate((10, 3 + t)):  # the first clip moves right, the second right and down
            clip[row, :, t, top : top + 10, 3 + t : 13 + t] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    assert judge(clip).predicted.tolist() == [[0, 1, 1, 0], [0, 1, -1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_judged_alike(dtype: torch.dtype, drawn: Tensor, combinations: Tensor) -> None:
    assert torch.equal(judge(drawn[::7].to(dtype)).predicted, combinations[::7])


def test_a_clip_is_judged_for_itself(drawn: Tensor) -> None:
    together, alone = judge(drawn[:6]), [judge(drawn[i : i + 1]) for i in range(6)]
    assert torch.equal(together.predicted, torch.cat([one.predicted for one in alone]))
    torch.testing.assert_close(together.shape_iou, torch.cat([one.shape_iou for one in alone]))


def test_bad_input_is_named(drawn: Tensor, combinations: Tensor) -> None:
    with pytest.raises(ValueError, match=r"values from -1 to .*; allowed is \[0, 1\]"):
        judge(torch.linspace(-1, 1, 3 * 13 * 32 * 32).view(1, 3, 13, 32, 32))
    with pytest.raises(ValueError, match=r"shape \(3, 13, 32, 32\); allowed is \[n, 3, T, H, W\]"):
        judge(drawn[0])
    with pytest.raises(ValueError, match="frames of 16x32 pixels; allowed are squares"):
        judge(drawn[:1, :, :, :16])
    with pytest.raises(ValueError, match=r"dtype torch\.uint8"):
        judge((drawn[:1] * 255).byte())
    with pytest.raises(ValueError, match="2 clips but 3 rows of attributes"):
        adherence(drawn[:2], combinations[:3])


def test_evaluation_sets() -> None:
    seen, seeds = evaluation_set("seen", 48)
    assert len(set(seen)) == 48 and list(seeds) == list(range(5000, 5048))
    held_out, seeds = evaluation_set("held_out", 48, seed=7)
    assert held_out[:24] == held_out[24:] and len(set(held_out)) == 24 and seeds[0] == 9007
    assert set(seen).isdisjoint(held_out)
    few = as_tensor(evaluation_set("seen", 24)[0])
    assert [len(set(column.tolist())) for column in few.unbind(1)] == [6, 3, 4, 3]  # every value occurs
    with pytest.raises(ValueError, match="'train' is unknown; allowed are seen, held_out"):
        evaluation_set("train")
    with pytest.raises(ValueError, match="clips=0"):
        evaluation_set("seen", 0)
