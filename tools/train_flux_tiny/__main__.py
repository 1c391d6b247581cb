"""Trains the tiny FLUX text-to-image model on a CPU: every stage, then OUT/pipe and its scores.

    python -m tools.train_flux_tiny OUT

Stages: vae, latents, transformer, distil, export, judge. A finished stage is kept in OUT and not done again; with
--stage only that one runs. A stage that was interrupted goes on from its last snapshot (OUT/STAGE.now). The result
depends on the arguments, the versions of the libraries and, through rounding, on the thread count.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.training.checkpoints import Checkpoints
from tools.training.command import recipe

from .export import export, score
from .settings import STAGES, Settings
from .transformer import distil, train_transformer
from .vae import make_latents, report, train_vae


def main(arguments: Sequence[str] | None = None) -> None:
    recipe("train_flux_tiny", __doc__, Settings, STAGES, run, arguments, threads=1)


def run(out: Path, settings: Settings, stages: Sequence[str] = STAGES) -> None:
    """Runs the stages in order. Raises ValueError when one needs a checkpoint that is missing or has other settings."""
    out.mkdir(parents=True, exist_ok=True)
    kept = Checkpoints(out, settings)
    if "vae" in stages:
        kept.once("vae", lambda: train_vae(settings, out / "vae.now"))
        report(settings, kept.load("vae"))
    if "latents" in stages:
        kept.once("latents", lambda: make_latents(settings, kept.load("vae")))
    if "transformer" in stages:
        kept.once("transformer", lambda: train_transformer(settings, kept.load("latents"), out / "transformer.now"))
    if "distil" in stages:
        kept.once(
            "distil", lambda: distil(settings, kept.load("latents"), kept.load("transformer"), out / "distil.now")
        )
    # Export and judge take minutes and always run: their outputs are plain files that say nothing of the settings.
    if "export" in stages:
        export(out / "pipe", kept.load("latents"), kept.load("vae"), kept.load("distil"))
    if "judge" in stages:
        if not (out / "pipe").exists():
            raise ValueError(f"{out / 'pipe'} is missing; run stage 'export' first")
        score(out / "pipe", settings)


if __name__ == "__main__":
    main()
