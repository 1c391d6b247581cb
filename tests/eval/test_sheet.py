from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from c4d.metrics import contact_sheet
from c4d.metrics.sheet import GROUP_GAP, PAD, TITLE_HEIGHT


def test_size_and_pixels(drawn: Tensor) -> None:
    sheet = contact_sheet(drawn[:4], frames=3, frame_height=64)
    assert sheet.size == (3 * (64 + PAD), 4 * (64 + PAD))
    pixels = np.asarray(sheet)
    expected = (drawn[2, :, 6] * 255).round().byte().permute(1, 2, 0).numpy()  # third clip, middle frame
    cell = pixels[2 * (64 + PAD) : 2 * (64 + PAD) + 64, 64 + PAD : 64 + PAD + 64]
    assert np.array_equal(cell[::2, ::2], expected)


def test_labels_stand_at_the_left(drawn: Tensor) -> None:
    plain = contact_sheet(drawn[:3], frames=2)
    short = contact_sheet(drawn[:3], ["a", "b", "c"], frames=2)
    long = contact_sheet(drawn[:3], ["a", "b", "a much longer label"], frames=2)
    assert plain.height == short.height == long.height
    assert plain.width < short.width < long.width
    left = long.width - plain.width
    pixels = np.asarray(long)
    assert np.array_equal(pixels[:, left:], np.asarray(plain))
    paper = pixels[0, 0]
    assert all((pixels[row * 99 : row * 99 + 96, :left] != paper).any() for row in range(3))  # ink in each row


def test_side_by_side(drawn: Tensor) -> None:
    a, b = drawn[:2], drawn[:2].flip(2)
    sheet = contact_sheet([a, b], titles=["uncached", "cached"], frames=5, frame_height=32)
    group = 5 * (32 + PAD)
    assert sheet.size == (2 * group + GROUP_GAP, TITLE_HEIGHT + 2 * (32 + PAD))
    pixels = np.asarray(sheet)[TITLE_HEIGHT:]
    assert np.array_equal(pixels[:32, :32], pixels[:32, group + GROUP_GAP + 4 * (32 + PAD) :][:, :32])


def test_proportions_are_kept() -> None:
    sheet = contact_sheet(torch.zeros(1, 3, 2, 480, 832), frames=2, frame_height=48)
    assert sheet.size == (2 * (83 + PAD), 48 + PAD)


def test_fewer_frames_than_asked_are_shown_once(drawn: Tensor) -> None:
    assert contact_sheet(drawn[:1, :, :1], frames=5).width == 96 + PAD


def test_nan_can_be_drawn(drawn: Tensor) -> None:
    sheet = contact_sheet(torch.full_like(drawn[:1], float("nan")), frames=1, frame_height=32)
    assert (np.asarray(sheet)[:32, :32] == 0).all()


def test_bad_input_is_named(drawn: Tensor) -> None:
    with pytest.raises(ValueError, match="no videos"):
        contact_sheet([])
    with pytest.raises(ValueError, match="1 labels for 2 clips"):
        contact_sheet(drawn[:2], ["one"])
    with pytest.raises(ValueError, match="1 titles for 2 videos"):
        contact_sheet([drawn[:2], drawn[:2]], titles=["one"])
    with pytest.raises(ValueError, match="allowed are equal shapes"):
        contact_sheet([drawn[:2], drawn[:1]])
    with pytest.raises(ValueError, match="frames=0"):
        contact_sheet(drawn[:1], frames=0)
