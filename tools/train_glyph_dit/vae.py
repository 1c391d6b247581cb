"""Stages vae and latents. The VAE works on [-1, 1], the pictures and the metrics on [0, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from c4d.bundled.glyphs import TypeCase
from c4d.metrics import psnr
from tools.training.optimise import Optimisation

from .models import make_vae
from .progress import Progress
from .settings import Settings

LATENT_BATCH = 64
DIVERGENCE = 5e-4  # weight of the KL divergence


def to_signed(pictures: Tensor) -> Tensor:
    return pictures * 2 - 1


def to_unit(pictures: Tensor) -> Tensor:
    return ((pictures + 1) / 2).clamp(0, 1)


def train_vae(settings: Settings, letters: TypeCase, progress: Progress) -> dict[str, Tensor]:
    """The whole VAE on endless fresh pictures -> its state dict."""
    torch.manual_seed(settings.stage_seed("vae"))
    generator = torch.Generator().manual_seed(settings.stage_seed("vae"))
    vae = make_vae()
    run = Optimisation(vae.parameters(), steps=settings.vae_steps, rate=2.5e-3, hold=0.4, betas=(0.9, 0.99), decay=0.99)
    progress.resume(vae, run, generator)
    while run.done < run.steps:
        pictures = to_signed(letters.sample(settings.vae_batch, generator)[0])
        posterior = vae.encode(pictures).latent_dist
        mean, log_variance = posterior.mean, posterior.logvar.clamp(-12, 4)
        noise = torch.randn(mean.shape, generator=generator) * min(1.0, run.done / 300)
        decoded = vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample
        difference = decoded - pictures
        error = (difference.abs() + 1.5 * difference**2).mean()
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        gradient = run.step(error + DIVERGENCE * divergence)
        if run.done % 50 == 0:
            quality = psnr(to_unit(decoded.detach())[:, :, None], to_unit(pictures)[:, :, None]).mean()
            line = f"error {error:.4f} kl {divergence:.2f} gradient {gradient:.2f} psnr {quality:.1f}"
            print(f"vae {run.done} {run.seconds:.0f} s {line}", flush=True)
        progress.keep(vae, run, generator)
    run.use_average()
    return vae.state_dict()


@torch.no_grad()
def make_latents(settings: Settings, letters: TypeCase, vae_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encodes the pictures that the transformer learns from; the held-out pairs are not among them.

    Returns latents [pictures, 4, 16, 16], letters [pictures], and their standard deviation [].
    """
    generator = torch.Generator().manual_seed(settings.stage_seed("latents"))
    vae = load_vae(vae_state)
    labels, latents = [], []
    for start in range(0, settings.pictures, LATENT_BATCH):
        drawn, asked = letters.sample(min(LATENT_BATCH, settings.pictures - start), generator)
        labels.append(asked)
        latents.append(vae.encode(to_signed(drawn)).latent_dist.mode())
    joined = torch.cat(latents)
    means, deviations = joined.mean((0, 2, 3)).tolist(), joined.std((0, 2, 3)).tolist()
    print(f"latents {tuple(joined.shape)} mean {means} std {deviations}, of all {joined.std():.4f}", flush=True)
    return {"latents": joined, "letters": torch.cat(labels), "std": joined.std()}


@torch.no_grad()
def reconstruct(vae: Any, pictures: Tensor) -> Tensor:
    """pictures [n, 3, H, W] in [0, 1] -> what the VAE makes of them, same shape and range."""
    parts = [vae.decode(vae.encode(to_signed(part)).latent_dist.mode()).sample for part in pictures.split(LATENT_BATCH)]
    return to_unit(torch.cat(parts))


def load_vae(state: dict[str, Tensor], scaling_factor: float = 1.0) -> Any:
    vae = make_vae(scaling_factor)
    vae.load_state_dict(state)
    return vae
