"""`generate` with a stand-in for the pipeline: what it asks for, and what it makes of the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from c4d.bundled import COMBINATIONS, caption, generate


class NoisePipeline:
    """Answers with the noise of each clip's generator and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, prompt: list[str], **options: Any) -> SimpleNamespace:
        self.calls.append({"prompt": prompt, **options})
        shape = (options["num_frames"], 3, options["height"], options["width"])
        return SimpleNamespace(frames=torch.stack([torch.rand(shape, generator=g) for g in options["generator"]]))


def test_batches_and_arguments() -> None:
    pipe, asked = NoisePipeline(), COMBINATIONS[:5]
    video = generate(pipe, asked, range(5), steps=7, guidance_scale=2.5, max_sequence_length=16, batch_size=2)
    assert video.shape == (5, 3, 13, 32, 32)
    assert [len(call["prompt"]) for call in pipe.calls] == [2, 2, 1]
    assert [prompt for call in pipe.calls for prompt in call["prompt"]] == [caption(a) for a in asked]
    for call in pipe.calls:
        assert (call["num_inference_steps"], call["guidance_scale"], call["max_sequence_length"]) == (7, 2.5, 16)
        assert call["output_type"] == "pt"


def test_a_clip_does_not_depend_on_its_batch() -> None:
    def clips(batch_size: int) -> torch.Tensor:
        options = {"steps": 1, "guidance_scale": 1.0, "max_sequence_length": 16, "batch_size": batch_size}
        return generate(NoisePipeline(), COMBINATIONS[:5], [4, 8, 15, 16, 23], **options)

    assert torch.equal(clips(1), clips(4))
    frames = torch.rand(13, 3, 32, 32, generator=torch.Generator().manual_seed(15))
    assert torch.equal(clips(4)[2], frames.transpose(0, 1))


def test_bad_input_is_named() -> None:
    options: dict[str, Any] = {"steps": 1, "guidance_scale": 1.0, "max_sequence_length": 16}
    with pytest.raises(ValueError, match="2 seeds for 3 rows of attributes"):
        generate(NoisePipeline(), COMBINATIONS[:3], [1, 2], **options)
    with pytest.raises(ValueError, match="batch_size=0"):
        generate(NoisePipeline(), COMBINATIONS[:3], [1, 2, 3], batch_size=0, **options)
    with pytest.raises(ValueError, match="colour index 9"):
        generate(NoisePipeline(), [(9, 0, 0, 0)], [1], **options)
