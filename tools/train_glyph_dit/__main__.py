"""Trains the class-to-image model of letters and its judge on a CPU: every stage, then OUT/pipe and its scores.

    python -m tools.train_glyph_dit OUT

Stages: vae, latents, classifier, transformer, export, judge. A finished stage is kept in OUT and not done again, a
stopped one goes on where it was; with --stage only that one runs. An unfinished transformer can be exported, too. The
result depends on the arguments, the versions of the libraries and, through rounding, on the thread count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from c4d.bundled.glyph_judge import load_classifier
from c4d.bundled.glyphs import TypeCase
from tools.training.checkpoints import Checkpoints
from tools.training.command import recipe

from .classifier import train_classifier
from .export import export, export_judge, score
from .progress import Progress
from .settings import STAGES, Settings
from .transformer import averaged, train_transformer
from .vae import make_latents, train_vae


def main(arguments: Sequence[str] | None = None) -> None:
    recipe("train_glyph_dit", __doc__, Settings, STAGES, run, arguments, threads=1)


def run(out: Path, settings: Settings, stages: Sequence[str] = STAGES) -> None:
    """Runs the stages in order. Raises ValueError when one needs a checkpoint that is missing or has other settings."""
    out.mkdir(parents=True, exist_ok=True)
    kept = Checkpoints(out, settings)
    progress = functools.partial(Progress, out, settings)
    letters = TypeCase()
    if "vae" in stages:
        kept.once("vae", lambda: train_vae(settings, letters, progress("vae")))
    if "latents" in stages:
        kept.once("latents", lambda: make_latents(settings, letters, kept.load("vae")))
    if "classifier" in stages:
        kept.once("classifier", lambda: train_classifier(settings, letters, progress("classifier")))
    if "transformer" in stages:
        kept.once("transformer", lambda: train_transformer(settings, kept.load("latents"), progress("transformer")))
    # Export and judge always run: their outputs are plain files that say nothing of the settings.
    if "export" in stages:
        unfinished = progress("transformer")
        finished = kept.path("transformer").exists() or not unfinished.path.exists()
        transformer = kept.load("transformer") if finished else averaged(unfinished)
        export(out / "pipe", kept.load("latents")["std"].item(), kept.load("vae"), transformer)
        export_judge(out / "glyph_judge.safetensors", kept.load("classifier"))
    if "judge" in stages:
        if not (out / "pipe").exists():
            raise ValueError(f"{out / 'pipe'} is missing; run stage 'export' first")
        score(out / "pipe", load_classifier(out / "glyph_judge.safetensors"), letters, settings)


if __name__ == "__main__":
    main()
