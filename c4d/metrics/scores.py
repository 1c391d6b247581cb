"""What is measured of a clip, as a table: the package's own figures, and those of optional packages and of networks.

Each is one entry of :data:`METRICS`. What needs nothing but a package is measured wherever that is installed, what
needs the weights of a network if somebody asks for it. What cannot be measured is known by name, with the way to get
it, and never stands in for a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

from torch import Tensor

from c4d.metrics.fidelity import SSIM_WINDOW, psnr, ssim
from c4d.metrics.networks import clip_score, lpips

IDENTICAL = 120.0  # dB that stand for no difference at all
MOST_SAID = 200  # letters of an error in a package that loads a network

Score = Callable[[Tensor, Tensor, str], float]


@dataclass(frozen=True)
class Asked:
    """How somebody asks for the metric of a network: ``word`` or ``word=source``.

    ``means``: what a source is; ``known``: all there are (none: any); ``default``: what ``word`` alone stands for
    (None: a source has to be said).
    """

    word: str
    means: str
    known: tuple[str, ...] = ()
    default: str | None = None


@dataclass(frozen=True)
class Metric:
    """``load(source)`` gives ``score(clip, reference, prompt)`` of clips [T, 3, H, W] in [0, 1].

    ``better`` is "higher" or "lower"; ``least`` are the pixels that the shorter side of a frame needs. ``package`` is
    what an optional one is imported from, and ``install`` what pip calls what it needs. ``asked``: only if it is asked
    for. ``close``: whether it tells how close the clip is to its reference, and so can rank caches.
    """

    name: str
    unit: str
    better: str
    about: str
    load: Callable[[str], Score]
    package: str | None = None
    install: str | None = None
    least: int = 1
    asked: Asked | None = None
    close: bool = True

    @property
    def installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None


class Measure(NamedTuple):
    """A metric at work; ``source`` of its network, "" if it has none."""

    metric: Metric
    score: Score
    source: str

    def __call__(self, clip: Tensor, reference: Tensor, prompt: str) -> float | None:
        """None for frames that are too small for it."""
        return self.score(clip, reference, prompt) if min(clip.shape[-2:]) >= self.metric.least else None

    @property
    def label(self) -> str:
        """Its name, and of what network."""
        return f"{self.metric.name} ({self.source})" if self.source else self.metric.name


def decibels(clip: Tensor, reference: Tensor, prompt: str = "") -> float:
    """PSNR; :data:`IDENTICAL` where the formula gives infinity."""
    found = psnr(_one(clip), _one(reference)).item()
    return IDENTICAL if math.isinf(found) else found


def _structure(clip: Tensor, reference: Tensor, prompt: str) -> float:
    return ssim(_one(clip), _one(reference)).item()


def _scales(source: str) -> Score:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as of

    return lambda clip, reference, prompt: of(clip, reference, data_range=1.0).item()


def _flip(source: str) -> Score:
    """The mean over frames, of screens as its package assumes them (67 pixels a degree)."""
    from flip_evaluator import evaluate

    def score(clip: Tensor, reference: Tensor, prompt: str) -> float:
        pairs = zip(*(video.movedim(1, -1).contiguous().numpy() for video in (reference, clip)), strict=True)
        found = [evaluate(one, other, "LDR", applyMagma=False)[1] for one, other in pairs]
        return float(sum(found) / len(found))

    return score


def _one(clip: Tensor) -> Tensor:
    return clip.transpose(0, 1)[None]


METRICS = (
    Metric(
        "PSNR", "dB", "higher", "the mean squared error of all pixels, on a logarithmic scale", lambda source: decibels
    ),
    Metric(
        "SSIM",
        "",
        "higher",
        "the likeness of local structure, 1 is equal",
        lambda source: _structure,
        least=SSIM_WINDOW,
    ),
    Metric(
        "MS-SSIM",
        "",
        "higher",
        "the likeness of structure at five scales, 1 is equal",
        _scales,
        package="torchmetrics",
        install="torchmetrics",
        least=176,
    ),
    Metric(
        "FLIP",
        "",
        "lower",
        "what an eye sees that flips between the two, 0 is nothing",
        _flip,
        package="flip_evaluator",
        install="flip-evaluator",
    ),
    Metric(
        "LPIPS",
        "",
        "lower",
        "how far the features of a network for pictures are apart, 0 is equal",
        lpips,
        package="lpips",
        install="lpips, with the torchvision of this torch",
        least=32,
        asked=Asked(
            "lpips", "the network, whose weights torch keeps in TORCH_HOME", ("alex", "vgg", "squeeze"), "alex"
        ),
    ),
    Metric(
        "CLIP score",
        "",
        "higher",
        "how well the frames suit the prompt, by a network: 100 times the cosine of their embeddings",
        clip_score,
        asked=Asked("clip", "a folder or hub id of a CLIP model with its tokenizer and processor"),
        close=False,
    ),
)


def asked_for(words: Sequence[str]) -> dict[str, str]:
    """Word -> source, of words such as ``clip=DIR``. Raises ValueError for what nobody knows."""
    ways, found = {metric.asked.word: metric.asked for metric in METRICS if metric.asked}, dict[str, str]()
    for given in words:
        word, _, source = given.partition("=")
        if (way := ways.get(word)) is None:
            known = ", ".join(f"{each.word}{'' if each.default else '=…'}" for each in ways.values())
            raise ValueError(f"{word!r} is not known; known are {known} (the others need no asking)")
        source = source or way.default or ""
        if not source or (way.known and source not in way.known):
            known = f": {', '.join(way.known)}" if way.known else ""
            raise ValueError(f"{given!r}: {word}=… is {way.means}{known}")
        found[word] = source
    return found


def loaded(asked: Mapping[str, str]) -> tuple[list[Measure], dict[Metric, str]]:
    """The metrics that can be measured here, of those that were ``asked`` for (word -> source) and those that need no
    asking; and why the others are not."""
    measures, lacking = list[Measure](), dict[Metric, str]()
    for metric in METRICS:
        if metric.asked is not None and metric.asked.word not in asked:
            continue
        source = asked[metric.asked.word] if metric.asked else ""
        if not metric.installed:
            lacking[metric] = f"not installed here (pip install {metric.install})"
            continue
        try:
            measures.append(Measure(metric, metric.load(source), source))
        except Exception as error:  # whatever a package of others does where something is missing
            said = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_SAID]
            needs = f"; --metrics {metric.asked.word}=… is {metric.asked.means}" if metric.asked else ""
            lacking[metric] = f"cannot be loaded ({said}){needs}"
    return measures, lacking
