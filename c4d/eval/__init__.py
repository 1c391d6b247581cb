"""Measuring generated video: prompt adherence of the procedural clips, fidelity to a reference, contact sheets.

Every video here is a tensor [n, 3, T, H, W] with values in [0, 1].
"""

from c4d.eval.adherence import Adherence, Judgement, adherence, judge
from c4d.eval.clips import (
    BACKGROUNDS,
    COLOURS,
    COMBINATIONS,
    FRAMES,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    SIZE,
    TRAIN,
    Attributes,
    as_tensor,
    caption,
    parse_caption,
    render,
    sample_attributes,
)
from c4d.eval.fidelity import psnr, ssim
from c4d.eval.generate import evaluation_set, generate
from c4d.eval.sheet import contact_sheet
from c4d.eval.video import check_video

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "COMBINATIONS",
    "FRAMES",
    "HELD_OUT",
    "MOTIONS",
    "SHAPES",
    "SIZE",
    "TRAIN",
    "Adherence",
    "Attributes",
    "Judgement",
    "adherence",
    "as_tensor",
    "caption",
    "check_video",
    "contact_sheet",
    "evaluation_set",
    "generate",
    "judge",
    "parse_caption",
    "psnr",
    "render",
    "sample_attributes",
    "ssim",
]
