"""Trains the tiny Wan text-to-video model on a CPU: every stage, then OUT/pipe and its scores.

    python -m tools.train_wan_tiny OUT

Stages: vae, latents, decoder, transformer, export, judge. A finished stage is kept in OUT and not done again; with
--stage only that one runs. The result depends on the arguments, the versions of the libraries and, through rounding,
on the thread count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from tools.training.checkpoints import Checkpoints
from tools.training.command import recipe

from .export import export, score
from .settings import STAGES, Settings
from .transformer import train_transformer
from .vae import make_latents, report, train_decoder, train_vae


def main(arguments: Sequence[str] | None = None) -> None:
    recipe("train_wan_tiny", __doc__, Settings, STAGES, run, arguments, threads=2)


def run(out: Path, settings: Settings, stages: Sequence[str] = STAGES) -> None:
    """Runs the stages in order. Raises ValueError when one needs a checkpoint that is missing or has other settings."""
    out.mkdir(parents=True, exist_ok=True)
    kept = Checkpoints(out, settings)
    if "vae" in stages:
        kept.once("vae", functools.partial(train_vae, settings))
    if "latents" in stages:
        kept.once("latents", lambda: make_latents(settings, kept.load("vae")))
    if "decoder" in stages:
        kept.once("decoder", lambda: train_decoder(settings, kept.load("vae"), kept.load("latents")))
        report(settings, kept.load("decoder"))
    if "transformer" in stages:
        kept.once("transformer", lambda: train_transformer(settings, kept.load("latents")))
    # Export and judge take a minute and always run: their outputs are plain files that say nothing of the settings.
    if "export" in stages:
        export(out / "pipe", kept.load("latents"), kept.load("decoder"), kept.load("transformer"))
    if "judge" in stages:
        if not (out / "pipe").exists():
            raise ValueError(f"{out / 'pipe'} is missing; run stage 'export' first")
        score(out / "pipe", settings)


if __name__ == "__main__":
    main()
