"""Stages export and judge: the trained parts as a DiTPipeline folder, and its scores."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from c4d.bundled.glyph_judge import Classifier, accuracy, frechet_distance, generate_glyphs, judge_glyphs
from c4d.bundled.glyphs import HELD_OUT_PAIRS, LETTERS, TRAIN_PAIRS, TypeCase
from tools.training.folder import save

from .models import make_scheduler, make_transformer
from .settings import Settings
from .vae import load_vae, reconstruct

GUIDANCE = (1.0, 2.0, 3.0, 4.0)  # scales that are judged
FIRST_SEED = 5000  # of the noise


def export(folder: Path, std: float, vae_state: dict[str, Tensor], transformer_state: dict[str, Tensor]) -> None:
    """Writes the pipeline; what was in the folder is replaced."""
    transformer = make_transformer()
    transformer.load_state_dict(transformer_state)
    vae = load_vae(vae_state, scaling_factor=round(1 / std, 4))
    pipe: Any = DiTPipeline(transformer=transformer, vae=vae, scheduler=make_scheduler())
    # The pipeline reads the names of its classes from its index, and does not write them.
    save(pipe, folder, more={"id2label": {str(i): letter for i, letter in enumerate(LETTERS)}})


def export_judge(path: Path, state: dict[str, Tensor]) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    path.chmod(0o644)
    print(f"export: {path}, {path.stat().st_size / 1e6:.2f} MB", flush=True)


def score(folder: Path, classifier: Classifier, letters: TypeCase, settings: Settings) -> dict[str, dict[str, float]]:
    """Scores drawn letters (the judge's own ceiling), reconstructions (the VAE's) and generated letters.

    All distances are to the same drawn letters, and all sets have as many pictures. Writes judge.json and contact
    sheets beside the pipeline.
    """
    pipe: Any = DiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    n = settings.judge_pictures
    generator = torch.Generator().manual_seed(settings.stage_seed("judge"))
    asked = torch.arange(n) % len(LETTERS)
    pictures, of_pictures = {}, {}
    reference, _ = letters.sample(n, generator, TRAIN_PAIRS)
    pictures["drawn"], of_pictures["drawn"] = letters.sample(n, generator, TRAIN_PAIRS)
    pictures["drawn, held-out pairs"], of_pictures["drawn, held-out pairs"] = letters.sample(
        n, generator, HELD_OUT_PAIRS
    )
    pictures["reconstructed"], of_pictures["reconstructed"] = (
        reconstruct(pipe.vae, pictures["drawn"]),
        of_pictures["drawn"],
    )
    for scale in GUIDANCE:
        started = time.monotonic()
        name = f"generated, guidance {scale:g}"
        seeds = range(FIRST_SEED, FIRST_SEED + n)
        pictures[name] = generate_glyphs(pipe, asked, seeds, steps=settings.judge_steps, guidance_scale=scale)
        of_pictures[name] = asked
        print(f"judge: {n} pictures in {time.monotonic() - started:.0f} s", flush=True)
    expected = judge_glyphs(reference, classifier).features
    results = {}
    for name, made in pictures.items():
        judged = judge_glyphs(made, classifier)
        results[name] = {
            "accuracy": round(accuracy(made, of_pictures[name], classifier), 4),
            "frechet_distance": round(frechet_distance(judged.features, expected), 4),
            "pictures": n,
        }
        print(f"judge: {name} {results[name]} misread {misread(judged.predicted, of_pictures[name])}", flush=True)
        file = name.replace(", ", "_").replace(" ", "_").replace("-", "_") + ".png"
        sheet(made[: 8 * len(LETTERS)]).save(folder.parent / file)
    (folder.parent / "judge.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def misread(predicted: Tensor, asked: Tensor, most: int = 12) -> str:
    """What was asked for and what was seen, the most frequent first: "I>none 3"."""
    names = (*LETTERS, "none")  # -1 is the last
    pairs = zip(asked.tolist(), predicted.tolist(), strict=True)
    counts = Counter(f"{names[a]}>{names[p]}" for a, p in pairs if a != p)
    return ", ".join(f"{pair} {count}" for pair, count in counts.most_common(most)) or "nothing"


def sheet(pictures: Tensor | Sequence[Tensor], across: int = len(LETTERS), zoom: int = 1) -> Image.Image:
    """pictures [n, 3, H, W] in [0, 1] as a grid, `across` in a row; what is left of the last row is black."""
    made = torch.stack(list(pictures)).mul(255).round().byte()
    n, _, height, width = made.shape
    rows = -(-n // across)
    grid = torch.zeros(rows * across, 3, height, width, dtype=torch.uint8)
    grid[:n] = made
    grid = grid.view(rows, across, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, across * width, 3)
    image = Image.fromarray(grid.contiguous().numpy())
    return image.resize((zoom * image.width, zoom * image.height), Image.Resampling.NEAREST)
