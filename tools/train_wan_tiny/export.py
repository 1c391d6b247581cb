"""Stages export and judge: the trained parts as a WanPipeline folder, and its scores."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from c4d.bundled import Adherence, adherence, caption, evaluation_set, generate, render
from c4d.metrics import contact_sheet
from tools.training.folder import save

from .models import make_scheduler, make_text_encoder, make_tokenizer, make_transformer, make_vae
from .settings import Settings
from .vae import reconstruct


def export(
    folder: Path, latents: dict[str, Tensor], vae_state: dict[str, Tensor], trained: dict[str, dict[str, Tensor]]
) -> None:
    """Writes the pipeline; what was in the folder is replaced."""
    tokenizer = make_tokenizer()
    text_encoder, transformer = make_text_encoder(len(tokenizer)), make_transformer()
    vae = make_vae(latents["mean"].tolist(), latents["std"].tolist())
    vae.load_state_dict(vae_state)
    transformer.load_state_dict(trained["transformer"])
    text_encoder.load_state_dict(trained["text_encoder"])
    pipe: Any = WanPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, scheduler=make_scheduler(), transformer=transformer
    )
    save(pipe, folder, tokenizers=("tokenizer",))


def score(folder: Path, settings: Settings) -> dict[str, dict[str, float]]:
    """Scores drawn clips (the judge's own ceiling), reconstructions (the VAE's) and generated clips.

    Writes seen.png, held_out.png and judge.json beside the pipeline.
    """
    pipe: Any = WanPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    asked, _ = evaluation_set("seen", settings.judge_clips)
    drawn = render(asked, torch.Generator().manual_seed(settings.stage_seed("judge")))
    results = {
        "drawn": _row(adherence(drawn, asked)),
        "reconstructed": _row(adherence(reconstruct(pipe.vae, drawn), asked)),
    }
    for name in ("seen", "held_out"):
        asked, seeds = evaluation_set(name, settings.judge_clips)
        started = time.monotonic()
        video = generate(pipe, asked, seeds, steps=settings.judge_steps, guidance_scale=4.0, max_sequence_length=512)
        print(f"judge: {len(asked)} clips in {time.monotonic() - started:.0f} s", flush=True)
        results[name] = _row(adherence(video, asked))
        contact_sheet(video[:24], [caption(a) for a in asked[:24]]).save(folder.parent / f"{name}.png")
    for name, row in results.items():
        print(f"judge: {name} {row}", flush=True)
    (folder.parent / "judge.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def _row(scores: Adherence) -> dict[str, float]:
    return {name: round(value, 4) for name, value in dataclasses.asdict(scores).items()}
