"""Drawn compositions: their grammar, the split, the pictures, and the judge that reads them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from c4d.bundled.composition_judge import Picture, Seen, compare, look, reading, task_scores
from c4d.bundled.compositions import (
    COMPOSITIONS,
    HELD_OUT,
    SHARES,
    TASKS,
    TRAIN,
    Composition,
    caption,
    checked,
    evaluation_set,
    parse_caption,
    render,
    sample_compositions,
)

CIRCLE = Composition(0, 0, 0, -1, -1, -1, 2)
THREE = Composition(2, 2, 1, -1, -1, -1, 0)
BOTH = Composition(0, 0, 0, 0, 2, 1, 1)
LEFT = BOTH._replace(relation=1)


@pytest.fixture(scope="module")
def some() -> list[Composition]:
    """200 compositions, of every task and from both sides of the split."""
    return sample_compositions(200, torch.Generator().manual_seed(3), COMPOSITIONS)


@pytest.fixture(scope="module")
def pictures(some: list[Composition]) -> Tensor:
    return render(some, torch.Generator().manual_seed(4))


def test_the_split_is_disjoint_and_complete() -> None:
    assert (len(TRAIN), len(HELD_OUT)) == (4332, 474)
    assert set(TRAIN).isdisjoint(HELD_OUT) and set(TRAIN) | set(HELD_OUT) == set(COMPOSITIONS)
    assert Counter(c.task for c in HELD_OUT) == {"single": 6, "count": 18, "two": 90, "position": 360}
    for part in (TRAIN, HELD_OUT):  # no single value is held out, only what goes with what
        for column, values in enumerate(zip(*COMPOSITIONS, strict=True)):
            assert {c[column] for c in part} == set(values)


def test_the_held_out_compositions_stay_the_same() -> None:
    """The weights were trained on this split: moving it would make the held-out score a lie."""
    digest = hashlib.sha256(repr([tuple(c) for c in HELD_OUT]).encode()).hexdigest()
    assert digest[:16] == "0bb27466d13c0357"


def test_things_are_held_out_together_however_they_are_put() -> None:
    held = {frozenset(c.objects) for c in HELD_OUT if c.relation >= 0}
    assert len(held) == 15
    assert held.isdisjoint({frozenset(c.objects) for c in TRAIN if c.relation >= 0})
    counts = {c[:3] for c in HELD_OUT if c.task == "count"}
    assert len(counts) == 6 and counts.isdisjoint({c[:3] for c in TRAIN if c.task == "count"})


def test_captions_round_trip() -> None:
    prompts = [caption(c) for c in COMPOSITIONS]
    assert len(set(prompts)) == len(prompts) == 4806
    assert [parse_caption(prompt) for prompt in prompts] == list(COMPOSITIONS)
    assert max(len(prompt.split()) for prompt in prompts) == 12
    assert caption(CIRCLE) == "a red circle on a white background"
    assert caption(THREE) == "three blue squares on a black background"
    assert caption(BOTH) == "a red circle and a blue square on a gray background"
    assert caption(LEFT) == "a red circle left of a blue square on a gray background"
    assert parse_caption("  A red circle\nLEFT of a blue square on a gray background ") == LEFT


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a red circle",
        "a red circles on a white background",
        "two red circle on a white background",
        "two red circles and a blue square on a white background",
        "a red circle and a red circle on a white background",
        "a red circle near a blue square on a white background",
        "a pink circle on a white background",
        "a red circle on a white background today",
    ],
)
def test_other_text_is_no_caption(prompt: str) -> None:
    assert parse_caption(prompt) is None


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (CIRCLE._replace(colour=6), "colour index 6 is unknown; allowed are 0 to 5"),
        (CIRCLE._replace(relation=5), "relation index 5 is unknown; allowed are -1 to 4"),
        (BOTH._replace(number=1), "number index 1 is unknown; allowed are 0 to 0"),
        (CIRCLE._replace(kind2=0), "kind2 index 0 is unknown; allowed are -1 to -1"),
        (BOTH._replace(colour2=0, kind2=0), "two equal objects"),
        ((0, 0), "has 2 indices; allowed are 7"),
    ],
)
def test_what_cannot_be_drawn_is_named(bad: tuple[int, ...], said: str) -> None:
    for function in (checked, caption, lambda c: render([c], torch.Generator())):
        with pytest.raises(ValueError, match=said):
            function(bad)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="size=0; allowed are 1 and more"):
        render([CIRCLE], torch.Generator(), size=0)
    with pytest.raises(ValueError, match="evaluation set 'all' is unknown; allowed are seen, held_out"):
        evaluation_set("all")
    with pytest.raises(ValueError, match="pictures=6; allowed are positive multiples of 4"):
        evaluation_set("seen", 6)
    with pytest.raises(ValueError, match="no composition of task 'count'"):
        sample_compositions(1, torch.Generator(), [CIRCLE], {"single": 0.5, "count": 0.5})
    for shape, said in (((3, 64, 64), r"allowed is \[n, 3, S, S\]"), ((1, 3, 32, 64), "allowed are squares")):
        with pytest.raises(ValueError, match=said):
            look(torch.zeros(shape))
    with pytest.raises(ValueError, match="1 pictures of 2; allowed are equal counts"):
        task_scores(torch.zeros(1, 3, 64, 64), [CIRCLE, CIRCLE])


def test_sampling_follows_the_shares() -> None:
    drawn = sample_compositions(4000, torch.Generator().manual_seed(0))
    tasks = Counter(c.task for c in drawn)
    assert all(abs(tasks[task] / 4000 - share) < 0.03 for task, share in SHARES.items())
    assert set(drawn) <= set(TRAIN)


def test_evaluation_sets_are_fixed_and_of_every_task() -> None:
    for name, pool in (("seen", TRAIN), ("held_out", HELD_OUT)):
        asked, seeds = evaluation_set(name)
        assert evaluation_set(name) == (asked, seeds) and len(asked) == len(seeds) == 96
        assert set(asked) <= set(pool)
        assert Counter(c.task for c in asked) == dict.fromkeys(TASKS, 24)
        assert set(evaluation_set(name, seed=96)[1]).isdisjoint(seeds)


def test_pictures_come_from_the_generator_alone(some: list[Composition], pictures: Tensor) -> None:
    assert pictures.shape == (200, 3, 64, 64) and pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() <= 1
    torch.rand(5)
    assert torch.equal(render(some, torch.Generator().manual_seed(4)), pictures)
    assert not torch.equal(render(some, torch.Generator().manual_seed(5)), pictures)
    assert render(some[:2], torch.Generator(), size=32).shape == (2, 3, 32, 32)


def test_the_judge_reads_what_was_drawn(some: list[Composition], pictures: Tensor) -> None:
    scores = task_scores(pictures, some)
    assert (scores.overall, scores.single, scores.count, scores.two, scores.position) == (1, 1, 1, 1, 1)
    assert min(s.shape_iou for seen in look(pictures) for s in seen.objects) > 0.95
    assert task_scores(pictures.bfloat16(), some).overall == 1


def test_the_judge_tells_other_prompts(some: list[Composition], pictures: Tensor) -> None:
    wrong = task_scores(pictures, some[1:] + some[:1])
    assert wrong.overall < 0.05 and wrong.pictures == 200


@pytest.mark.parametrize(
    "change", [{"colour": 1}, {"kind": 2}, {"background": 0}, {"relation": 2}, {"relation": 3}, {"relation": 4}]
)
def test_one_wrong_word_is_wrong(change: dict[str, int]) -> None:
    picture = look(render([LEFT], torch.Generator().manual_seed(1)))[0]
    assert compare(picture, LEFT).as_asked and compare(picture, BOTH).as_asked
    assert not compare(picture, LEFT._replace(**change)).as_asked


def test_colours_that_are_swapped_are_wrong() -> None:
    picture = look(render([BOTH], torch.Generator().manual_seed(1)))[0]
    verdict = compare(picture, Composition(0, 0, 1, 0, 2, 0, 1))  # a red square and a blue circle
    assert verdict.colours and verdict.number and not verdict.kinds and not verdict.as_asked


def test_the_other_order_says_the_same() -> None:
    picture = look(render([LEFT], torch.Generator().manual_seed(1)))[0]
    assert compare(picture, Composition(0, 2, 1, 2, 0, 0, 1)).as_asked  # a blue square right of a red circle


def test_clutter_and_torn_shapes_are_objects() -> None:
    clean = render([CIRCLE], torch.Generator().manual_seed(1))
    cluttered, torn = clean.clone(), clean.clone()
    cluttered[..., 1:7, 1:7] = 0.0
    seen = look(clean)[0].objects[0]
    torn[..., int(seen.y * 64) - 2 : int(seen.y * 64) + 3, :] = 0.94
    assert [len(look(p)[0].objects) for p in (clean, cluttered, torn)] == [1, 2, 2]
    speck = clean.clone()
    speck[..., 1:4, 1:4] = 0.0  # nine pixels
    assert compare(look(speck)[0], CIRCLE).as_asked


def test_what_is_unclear_is_not_guessed() -> None:
    mud = look(torch.full((1, 3, 64, 64), 0.28))[0]
    assert mud == Picture(-1, ())
    brown = torch.full((1, 3, 64, 64), 0.94)
    brown[:, :, 20:40, 20:40] = torch.tensor([0.35, 0.30, 0.30]).view(3, 1, 1)
    seen = look(brown)[0].objects
    assert [(s.colour, s.kind) for s in seen] == [(-1, 1)]
    brown[:, :, 28:32, 5:60] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    assert [s.kind for s in look(brown)[0].objects] == [-1]
    assert look(torch.full((1, 3, 64, 64), torch.nan))[0].objects == ()


def test_reading_for_the_report() -> None:
    frames = render([LEFT], torch.Generator().manual_seed(1))
    assert reading(caption(LEFT), frames) == {"seen": caption(LEFT), "as_asked": True}
    assert reading(caption(BOTH), frames) == {"seen": caption(BOTH), "as_asked": True}
    assert reading(caption(CIRCLE), frames) == {"seen": caption(LEFT), "as_asked": False}
    assert reading(caption(THREE), torch.zeros(1, 3, 64, 64)) == {"seen": None, "as_asked": False}
    three = render([THREE], torch.Generator().manual_seed(1))
    assert reading(caption(CIRCLE), three) == {"seen": caption(THREE), "as_asked": False}
    assert reading("a cat", frames) is None
    assert reading(caption(LEFT), frames.repeat(2, 1, 1, 1)) is None
    assert reading(caption(LEFT), torch.zeros(1, 3, 32, 64)) is None


def test_a_place_needs_its_two_objects() -> None:
    picture = look(render([LEFT], torch.Generator().manual_seed(1)))[0]
    moved = tuple(replace(s, kind=2) if s.kind == 1 else s for s in picture.objects)
    assert not compare(Picture(picture.background, moved), LEFT).place
    assert isinstance(moved[0], Seen)
