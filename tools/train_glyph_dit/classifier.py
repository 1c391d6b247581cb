"""Stage classifier: the judge of c4d/bundled/glyph_judge.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.bundled.glyph_judge import NOTHING, Classifier, accuracy
from c4d.bundled.glyphs import HELD_OUT_PAIRS, TRAIN_PAIRS, TypeCase
from tools.training.optimise import Optimisation

from .progress import Progress
from .settings import Settings

NOTHINGS = 8  # one picture in eight shows no letter
TESTS = 20  # so many times judge_pictures


def train_classifier(settings: Settings, letters: TypeCase, progress: Progress) -> dict[str, Tensor]:
    """On endless fresh pictures, spoiled a little -> the classifier's state dict."""
    torch.manual_seed(settings.stage_seed("classifier"))
    generator = torch.Generator().manual_seed(settings.stage_seed("classifier"))
    classifier = Classifier()
    run = Optimisation(
        classifier.parameters(),
        steps=settings.classifier_steps,
        rate=2e-3,
        hold=0.4,
        betas=(0.9, 0.99),
        decay=0.995,
        weight_decay=0.02,
    )
    progress.resume(classifier, run, generator)
    hits: list[float] = []
    while run.done < run.steps:
        pictures, labels = letters.sample(settings.classifier_batch, generator)
        without = max(1, len(pictures) // NOTHINGS)
        pictures[:without], labels[:without] = no_letters(pictures[:without], generator), NOTHING
        scores, _ = classifier(spoiled(pictures, generator))
        gradient = run.step(F.cross_entropy(scores, labels, label_smoothing=0.05))
        hits.append((scores.argmax(1) == labels).float().mean().item())
        if run.done % 100 == 0:
            recent = sum(hits[-100:]) / len(hits[-100:])
            print(f"classifier {run.done} {run.seconds:.0f} s right {recent:.4f} gradient {gradient:.2f}", flush=True)
        progress.keep(classifier, run, generator)
    run.use_average()
    tested(settings, letters, classifier)
    return classifier.state_dict()


@torch.no_grad()
def tested(settings: Settings, letters: TypeCase, classifier: Classifier) -> dict[str, float]:
    """Prints, and returns, how many fresh drawn pictures are read right."""
    generator = torch.Generator().manual_seed(settings.stage_seed("classifier") + 50)
    results = {}
    for name, pairs in (("pairs seen", TRAIN_PAIRS), ("pairs held out", HELD_OUT_PAIRS)):
        drawn = [letters.sample(settings.judge_pictures, generator, pairs) for _ in range(TESTS)]
        shares = [accuracy(pictures, asked, classifier) for pictures, asked in drawn]
        results[name] = sum(shares) / len(shares)
        print(f"classifier: {name} {results[name]:.4f} of {TESTS * settings.judge_pictures}", flush=True)
    return results


def no_letters(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """pictures [n, 3, 32, 32] -> by turns blank paper, noise, soft noise, pictures in pieces, two letters at once."""
    made = []
    for i, picture in enumerate(pictures):
        kind = i % 5
        if kind == 0:
            made.append(picture[:, :1, :1].expand_as(picture))
        elif kind == 1:
            made.append(torch.rand(picture.shape, generator=generator))
        elif kind == 2:
            rough = torch.rand(1, 3, 5, 5, generator=generator)
            made.append(F.interpolate(rough, picture.shape[1:], mode="bilinear")[0])
        elif kind == 3:
            half = picture.shape[-1] // 2
            shift = ((half, half), (half, 0), (0, half))[int(torch.randint(0, 3, (1,), generator=generator))]
            made.append(torch.roll(picture, shift, (1, 2)))
        else:
            made.append((picture + pictures[i - 1]) / 2)
    return torch.stack(made)


def spoiled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """pictures [n, 3, 32, 32] in [0, 1] -> the same with less contrast, less sharp, with grain, as a sampler may do."""
    n = len(pictures)

    def some(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low

    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.lerp(pictures, soft, some(0, 1))
    grey = pictures.mean((1, 2, 3), keepdim=True)
    pictures = torch.lerp(grey, pictures, some(0.5, 1))
    grain = torch.randn(pictures.shape, generator=generator) * some(0, 0.08)
    return (pictures + grain).clamp(0, 1)
