"""Stages export and judge: the trained parts as a FluxPipeline folder, and its scores."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from c4d.bundled.composition_judge import TaskScores, task_scores
from c4d.bundled.compositions import SIZE, Composition, caption, evaluation_set, render
from c4d.metrics import contact_sheet, psnr
from tools.training.folder import save

from .models import (
    CLIP_LENGTH,
    T5_LENGTH,
    make_clip,
    make_scheduler,
    make_t5,
    make_tokenizer,
    make_transformer,
    make_vae,
)
from .settings import Settings
from .vae import reconstruct

GUIDANCE, TEXT_LENGTH = 3.5, 24  # of the pictures that are judged


def export(
    folder: Path, latents: dict[str, Any], vae_state: dict[str, Tensor], trained: dict[str, dict[str, Tensor]]
) -> None:
    """Writes the pipeline; what was in the folder is replaced."""
    tokenizer, tokenizer_2 = make_tokenizer(CLIP_LENGTH, begins=True), make_tokenizer(T5_LENGTH, begins=False)
    clip, t5, transformer = make_clip(len(tokenizer)), make_t5(len(tokenizer)), make_transformer()
    # FluxPipeline decodes latents / scaling_factor + shift_factor.
    vae = make_vae(scaling_factor=1 / latents["std"], shift_factor=latents["mean"])
    vae.load_state_dict(vae_state)
    transformer.load_state_dict(trained["transformer"])
    clip.load_state_dict(trained["clip"])
    t5.load_state_dict(trained["t5"])
    pipe: Any = FluxPipeline(
        scheduler=make_scheduler(),
        vae=vae,
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )
    save(pipe, folder, tokenizers=("tokenizer", "tokenizer_2"))


def generate(
    pipe: Any,
    compositions: Sequence[Composition],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float = GUIDANCE,
    max_sequence_length: int = TEXT_LENGTH,
    batch_size: int = 24,
) -> Tensor:
    """One picture of each composition, each with a generator of its own -> [n, 3, 64, 64] in [0, 1]."""
    batches = []
    for start in range(0, len(compositions), batch_size):
        part = slice(start, start + batch_size)
        result = pipe(
            [caption(c) for c in compositions[part]],
            height=SIZE,
            width=SIZE,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="pt",
        )
        batches.append(result.images.cpu().float())
    return torch.cat(batches)


def score(folder: Path, settings: Settings) -> dict[str, dict[str, float | None]]:
    """Scores drawn pictures (the judge's own ceiling), reconstructions (the VAE's) and generated pictures.

    Writes seen.png, held_out.png, reconstructed.png and judge.json beside the pipeline.
    """
    pipe: Any = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    results = {}
    for name in ("seen", "held_out"):
        asked, seeds = evaluation_set(name, settings.judge_pictures)
        drawn = render(asked, torch.Generator().manual_seed(settings.stage_seed("judge")))
        rebuilt = reconstruct(pipe.vae, drawn)
        results[f"drawn, {name}"] = _row(task_scores(drawn, asked))
        quality = psnr(rebuilt[:, :, None], drawn[:, :, None]).mean().item()
        results[f"reconstructed, {name}"] = _row(task_scores(rebuilt, asked)) | {"psnr": round(quality, 2)}
        if name == "seen":
            sheet(drawn, asked, rebuilt).save(folder.parent / "reconstructed.png")
        started = time.monotonic()
        made = generate(pipe, asked, seeds, steps=settings.judge_steps)
        print(f"judge: {len(asked)} pictures in {time.monotonic() - started:.0f} s", flush=True)
        results[name] = _row(task_scores(made, asked))
        sheet(made, asked).save(folder.parent / f"{name}.png")
    for name, row in results.items():
        print(f"judge: {name} {row}", flush=True)
    (folder.parent / "judge.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def sheet(pictures: Tensor, asked: Sequence[Composition], beside: Tensor | None = None, most: int = 32) -> Any:
    """At most so many of the pictures, evenly spaced, with their captions; others of the same captions beside them."""
    shown = [i * len(asked) // min(most, len(asked)) for i in range(min(most, len(asked)))]
    groups = [group[shown][:, :, None] for group in (pictures, beside) if group is not None]
    return contact_sheet(groups, [caption(asked[i]) for i in shown], frames=1, frame_height=64)


def _row(scores: TaskScores) -> dict[str, float | None]:
    return {k: None if v is None else round(v, 4) for k, v in dataclasses.asdict(scores).items()}
