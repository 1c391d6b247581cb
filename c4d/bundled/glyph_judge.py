"""The judge of drawn letters: a small trained classifier, and the Fréchet distance between two sets of pictures.

The classifier was trained on drawn letters (tools/train_glyph_dit) and has one answer more than there are letters:
nothing, for blank paper, noise, and pictures in pieces. It was trained to read the shape whatever the colours and the
place are; the distance compares its features, so it says little about colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c4d.bundled.glyphs import LETTERS, PIXELS, as_letters, letter_index

NOTHING = len(LETTERS)  # the classifier's last answer
FEATURES = 96
SURE = 0.5  # below this probability nothing clear is seen
_TOLERANCE = 1e-3  # rounding may leave [0, 1] by so much
_BATCH = 256


@dataclass(frozen=True)
class GlyphJudgement:
    """predicted: int64 [n], an index into LETTERS, or -1 where no letter is seen clearly.
    probability: float32 [n], of the likeliest answer (that there is no letter is one), nan for a picture with NaN.
    features: float32 [n, 96], what the answer was made from."""

    predicted: Tensor
    probability: Tensor
    features: Tensor


class Classifier(nn.Module):
    """Pictures [n, 3, 32, 32] in [0, 1] -> scores of 26 letters and of nothing [n, 27], and features [n, 96]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, FEATURES)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, 1 if i == 0 else 2, 1) for i, (before, after) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.answer = nn.Linear(FEATURES, NOTHING + 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = pictures * 2 - 1
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.silu(norm(layer(x)))
        features = x.mean((2, 3))
        return self.answer(features), features


def load_classifier(path: str | Path | None = None) -> Classifier:
    """The trained classifier from a safetensors file, without one that of the package.

    Raises FileNotFoundError where the file is missing.
    """
    from safetensors.torch import load_file

    path = Path(str(files("c4d.bundled") / "glyph_judge.safetensors")) if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the weights of the judge are missing: {path}; install c4d again")
    classifier = Classifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


@torch.no_grad()
def judge_glyphs(pictures: Tensor, classifier: Classifier | None = None) -> GlyphJudgement:
    """Reads pictures [n, 3, 32, 32] in [0, 1], any floating dtype and device, by a classifier, else the package's.

    A picture with NaN is judged -1. The result is on the CPU.
    Raises ValueError for another shape, dtype or value range.
    """
    check_pictures(pictures)
    classifier = load_classifier() if classifier is None else classifier
    pictures = pictures.detach().cpu().float()
    broken = pictures.isnan().flatten(1).any(1)
    answers = [classifier(part) for part in pictures.nan_to_num(0.5).clamp(0, 1).split(_BATCH)]
    probability, answer = torch.cat([scores for scores, _ in answers]).softmax(1).max(1)
    clear = (answer != NOTHING) & (probability >= SURE) & ~broken
    features = torch.cat([features for _, features in answers])
    return GlyphJudgement(torch.where(clear, answer, -1), probability.masked_fill(broken, float("nan")), features)


def accuracy(pictures: Tensor, letters: Tensor, classifier: Classifier | None = None) -> float:
    """The fraction of the pictures that show the letter asked for; letters: indices, int64 [n].

    Raises ValueError where `judge_glyphs` or `as_letters` does, and when the two counts differ.
    """
    asked = as_letters(letters)
    if len(asked) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures but {len(asked)} letters; allowed are equal counts")
    return (judge_glyphs(pictures, classifier).predicted == asked).float().mean().item()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance between the normal distributions that fit two sets of features best.

    a, b: float [n, d] and [m, d], such as `GlyphJudgement.features`, n and m above d: fewer make no covariance of full
    rank. Computed in float64, covariances over n - 1, as |mean a - mean b|^2 + trace(A + B - 2 R), where R is the
    root of A^1/2 B A^1/2. It is biased upwards for few samples, so compare at equal counts alone.
    Raises ValueError for other shapes and for values that are not finite.
    """
    for name, features in (("a", a), ("b", b)):
        if features.dim() != 2 or features.shape[1] != a.shape[-1] or len(features) <= features.shape[1]:
            raise ValueError(
                f"features {name} have shape {tuple(features.shape)}; allowed is [n, {a.shape[-1]}] with n above that"
            )
        if not features.isfinite().all():
            raise ValueError(f"features {name} are not finite; drop the pictures with NaN first")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    root = _root(torch.cov(a.T))
    shared = torch.linalg.eigvalsh(root @ torch.cov(b.T) @ root).clamp_min(0).sqrt().sum()
    spread = a.var(0).sum() + b.var(0).sum() - 2 * shared
    return ((a.mean(0) - b.mean(0)).square().sum() + spread).item()


def generate_glyphs(
    pipe: Any,
    letters: Tensor | Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int = 50,
    guidance_scale: float = 3.0,
    batch_size: int = 26,
) -> Tensor:
    """Generates one picture for each letter with a class-to-image pipeline that takes the arguments of DiTPipeline.

    Each picture has its own generator, so its noise does not depend on the batch that it is in; what remains of the
    batch is rounding. Returns [n, 3, 32, 32] in [0, 1] on the CPU.
    Raises ValueError for letters that `as_letters` refuses, unequal counts and batch_size below 1.
    """
    asked = as_letters(letters)
    if len(seeds) != len(asked) or not len(asked):
        raise ValueError(f"{len(seeds)} seeds for {len(asked)} letters; allowed are equal counts above 0")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed are 1 and more")
    pictures = []
    for start in range(0, len(asked), batch_size):
        part = slice(start, start + batch_size)
        result = pipe(
            pipe.get_label_ids([LETTERS[letter] for letter in asked[part]]),
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="pt",
        )
        pictures.append(result.images.cpu())
    return torch.cat(pictures)


def reading(prompt: str, frames: Tensor) -> dict[str, Any] | None:
    """What the judge sees in a picture [1, 3, 32, 32]; None unless the prompt is a letter and the picture of that size.

    `seen` is the letter, None where none is seen clearly.
    """
    wanted = letter_index(prompt)
    if wanted is None or frames.shape[0] != 1 or tuple(frames.shape[-2:]) != (PIXELS, PIXELS):
        return None
    read = int(judge_glyphs(frames).predicted[0])
    return {"seen": LETTERS[read] if read >= 0 else None, "as_asked": read == wanted}


def check_pictures(pictures: Tensor) -> None:
    """Raises ValueError unless `pictures` is a floating tensor [n, 3, 32, 32] in [0, 1], n above 0; NaN passes."""
    if pictures.dim() != 4 or tuple(pictures.shape[1:]) != (3, PIXELS, PIXELS) or not len(pictures):
        raise ValueError(
            f"pictures have shape {tuple(pictures.shape)}; allowed is [n, 3, {PIXELS}, {PIXELS}], n above 0"
        )
    if not pictures.is_floating_point():
        raise ValueError(
            f"pictures have dtype {pictures.dtype}; allowed are floating-point types with values in [0, 1]"
        )
    low, high = pictures.min().item(), pictures.max().item()
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(f"pictures have values from {low:.3g} to {high:.3g}; allowed is [0, 1]")


def _root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
