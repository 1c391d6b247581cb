"""Stages vae and latents. The VAE works on [-1, 1], the pictures and the metrics on [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.bundled.compositions import Composition, evaluation_set, render, sample_compositions
from c4d.metrics import psnr

from .models import make_vae
from .running import Run
from .settings import Settings

LATENT_BATCH = 64


def to_signed(pictures: Tensor) -> Tensor:
    return pictures * 2 - 1


def to_unit(pictures: Tensor) -> Tensor:
    return ((pictures + 1) / 2).clamp(0, 1)


def train_vae(settings: Settings, snapshots: Path) -> dict[str, Tensor]:
    """The whole VAE on endless fresh pictures, held-out compositions not among them -> its state dict."""
    torch.manual_seed(settings.stage_seed("vae"))
    generator = torch.Generator().manual_seed(settings.stage_seed("vae"))
    vae = make_vae().to(memory_format=torch.channels_last)
    run = Run(
        snapshots,
        generator,
        parameters=vae.parameters(),
        steps=settings.vae_steps,
        rate=2e-3,
        hold=0.55,
        betas=(0.9, 0.99),
        decay=0.995,
    )
    while run.done < run.steps:
        pictures = render(sample_compositions(settings.vae_batch, generator), generator)
        pictures = to_signed(pictures).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pictures).latent_dist
        mean, log_variance = posterior.mean, posterior.logvar.clamp(-12, 4)
        noise = torch.randn(mean.shape, generator=generator) * min(1.0, run.done / 300)
        decoded = vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample
        error = _reconstruction_error(decoded, pictures)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        gradient = run.step(error + 3e-4 * divergence)
        run.keep()
        if run.done % 50 == 0:
            quality = psnr(to_unit(decoded.detach())[:, :, None], to_unit(pictures)[:, :, None]).mean()
            line = f"error {error:.4f} kl {divergence:.2f} gradient {gradient:.2f} psnr {quality:.1f}"
            print(f"vae {run.done} {run.seconds:.0f} s {line}", flush=True)
    run.use_average()
    return {name: value.contiguous() for name, value in vae.state_dict().items()}


@torch.no_grad()
def make_latents(settings: Settings, vae_state: dict[str, Tensor]) -> dict[str, Any]:
    """Encodes the pictures that the transformer learns from; the held-out compositions are not among them.

    Returns latents [pictures, 4, 16, 16], compositions [pictures, 7], and the mean and std of all latents.
    """
    vae = built_vae(vae_state)
    compositions, latents = [], []
    for asked, pictures in training_pictures(settings):
        compositions += asked
        latents.append(vae.encode(to_signed(pictures)).latent_dist.mode())
    joined = torch.cat(latents)
    mean, std = joined.mean().item(), joined.std().item()
    channels = f"channels mean {joined.mean((0, 2, 3)).tolist()} std {joined.std((0, 2, 3)).tolist()}"
    print(f"latents {tuple(joined.shape)} mean {mean:.4f} std {std:.4f} {channels}", flush=True)
    return {"latents": joined, "compositions": torch.tensor(compositions), "mean": mean, "std": std}


def training_pictures(settings: Settings) -> Iterator[tuple[list[Composition], Tensor]]:
    """The same pictures at every call: batches of compositions and pictures [b, 3, 64, 64] in [0, 1]."""
    generator = torch.Generator().manual_seed(settings.stage_seed("latents"))
    for start in range(0, settings.pictures, LATENT_BATCH):
        compositions = sample_compositions(min(LATENT_BATCH, settings.pictures - start), generator)
        yield compositions, render(compositions, generator)


@torch.no_grad()
def reconstruct(vae: Any, pictures: Tensor) -> Tensor:
    """pictures [n, 3, H, W] in [0, 1] -> what the VAE makes of them, same shape and range."""
    return to_unit(vae.decode(vae.encode(to_signed(pictures)).latent_dist.mode()).sample)


def report(settings: Settings, vae_state: dict[str, Tensor]) -> None:
    """Prints how well fresh pictures survive the VAE, those of held-out compositions too."""
    for name in ("seen", "held_out"):
        asked, _ = evaluation_set(name, settings.judge_pictures)
        pictures = render(asked, torch.Generator().manual_seed(99))
        rebuilt = reconstruct(built_vae(vae_state), pictures)
        print(f"reconstruction {name} psnr {psnr(rebuilt[:, :, None], pictures[:, :, None]).mean():.2f}", flush=True)


def built_vae(state: dict[str, Tensor]) -> Any:
    vae = make_vae()
    vae.load_state_dict(state)
    return vae


def _reconstruction_error(decoded: Tensor, pictures: Tensor) -> Tensor:
    """The objects, found by their saturation, and a rim of two pixels count threefold."""
    saturation = pictures.amax(1, keepdim=True) - pictures.amin(1, keepdim=True)
    weight = 1 + 2 * F.max_pool2d((saturation > 0.4).float(), 5, 1, 2)
    difference = decoded - pictures
    return (weight * (difference.abs() + 1.5 * difference**2)).mean()
