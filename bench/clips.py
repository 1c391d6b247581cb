"""The bundled model and the paired clips that measurements of quality share."""

from __future__ import annotations

from typing import Any

from bench.stamp import ROOT
from c4d.bundled import generate
from c4d.bundled.clips import Attributes
from c4d.bundled.evaluation import evaluation_set

GUIDANCE, LENGTH = 4.0, 16  # guidance scale and max_sequence_length
UNMEASURED = 200_000  # seeds from here on


def pipeline() -> Any:
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(ROOT / "c4d" / "bundled" / "wan_tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paired(clips: int) -> tuple[list[Attributes], list[int]]:
    """Attributes and noise seeds: the first half of combinations seen in training, the second of held-out ones."""
    seen, held = evaluation_set("seen", clips - clips // 2), evaluation_set("held_out", max(1, clips // 2))
    return [*seen[0], *held[0]][:clips], [*seen[1], *held[1]][:clips]


def unmeasured(pipe: Any, steps: int, clips: int = 1) -> Any:
    """Clips whose seeds no measurement uses, to learn from."""
    attributes, seeds = paired(clips)
    setting: dict[str, Any] = {"steps": steps, "guidance_scale": GUIDANCE, "max_sequence_length": LENGTH}
    return generate(pipe, attributes, [seed + UNMEASURED for seed in seeds], **setting)
