"""The weights in the repository: small, loadable without a network, and good enough to measure caches on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from c4d.bundled import adherence, evaluation_set, generate
from tests.sampled import first_of

pytest.importorskip("diffusers")


def test_it_is_small(bundled_model: Path) -> None:
    size = sum(path.stat().st_size for path in bundled_model.rglob("*") if path.is_file())
    assert 10e6 < size <= 15e6


@pytest.mark.slow
@pytest.mark.parametrize("clips", first_of([4, 24]))
def test_it_does_what_the_prompt_says(bundled_model: Path, clips: int) -> None:
    from diffusers import WanPipeline

    pipe: Any = WanPipeline.from_pretrained(bundled_model)
    pipe.set_progress_bar_config(disable=True)
    for name in ("seen", "held_out"):
        asked, seeds = evaluation_set(name, clips)
        video = generate(pipe, asked, seeds, steps=50, guidance_scale=4.0, max_sequence_length=16)
        assert torch.isfinite(video).all()
        scores = adherence(video, asked)
        assert min(scores.colour, scores.motion, scores.background) >= 0.97, (name, scores)
        assert scores.shape >= 0.9, (name, scores)
