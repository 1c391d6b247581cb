"""The models that come with the package, the clips that they were trained on, and the judge of what they draw.

Every video here is a tensor [n, 3, T, H, W] with values in [0, 1].
"""

from c4d.bundled.clips import (
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
from c4d.bundled.evaluation import evaluation_set, generate, roll_out
from c4d.bundled.judge import Adherence, Judgement, adherence, judge
from c4d.bundled.models import BUNDLED, ROLLING, Bundled, Defaults

__all__ = [
    "BACKGROUNDS",
    "BUNDLED",
    "COLOURS",
    "COMBINATIONS",
    "FRAMES",
    "HELD_OUT",
    "MOTIONS",
    "ROLLING",
    "SHAPES",
    "SIZE",
    "TRAIN",
    "Adherence",
    "Attributes",
    "Bundled",
    "Defaults",
    "Judgement",
    "adherence",
    "as_tensor",
    "caption",
    "evaluation_set",
    "generate",
    "judge",
    "parse_caption",
    "render",
    "roll_out",
    "sample_attributes",
]
