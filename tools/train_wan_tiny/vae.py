"""Stages vae, latents and decoder. The VAE works on [-1, 1], the clips and the metrics on [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.bundled import COMBINATIONS, FRAMES, TRAIN, adherence, evaluation_set, render, sample_attributes
from c4d.metrics import psnr
from tools.training.optimise import Optimisation

from .models import make_vae
from .settings import Settings

LATENT_BATCH = 64

# Fractions of the steps. The run that made the shipped weights was scheduled by wall time on a busy machine; these are
# the steps at which its phases fell (docs/measurements/wan-tiny).
SINGLE_FRAMES_UNTIL, WINDOWS_UNTIL, VAE_HOLD = 0.20, 0.87, 0.39


def to_signed(video: Tensor) -> Tensor:
    return video * 2 - 1


def to_unit(video: Tensor) -> Tensor:
    return ((video + 1) / 2).clamp(0, 1)


def train_vae(settings: Settings) -> dict[str, Tensor]:
    """The whole VAE on endless fresh clips -> its state dict."""
    torch.manual_seed(settings.stage_seed("vae"))
    generator = torch.Generator().manual_seed(settings.stage_seed("vae"))
    vae = make_vae()
    run = Optimisation(
        vae.parameters(), steps=settings.vae_steps, rate=2.5e-3, hold=VAE_HOLD, betas=(0.9, 0.99), decay=0.99
    )
    while run.done < run.steps:
        clips = to_signed(_vae_batch(run.progress, run.done, settings.vae_batch, generator))
        posterior = vae.encode(clips).latent_dist
        mean, log_variance = posterior.mean, posterior.logvar.clamp(-12, 4)
        noise = torch.randn(mean.shape, generator=generator) * min(1.0, run.done / 300)
        decoded = vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample
        error = _reconstruction_error(decoded, clips)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        gradient = run.step(error + 3e-4 * divergence)
        if run.done % 50 == 0:
            quality = psnr(to_unit(decoded.detach()), to_unit(clips)).mean()
            line = f"error {error:.4f} kl {divergence:.2f} gradient {gradient:.2f} psnr {quality:.1f}"
            print(f"vae {run.done} frames {clips.shape[2]} {run.seconds:.0f} s {line}", flush=True)
    run.use_average()
    return vae.state_dict()


def make_latents(settings: Settings, vae_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encodes the clips that the transformer learns from; the held-out combinations are not among them.

    Returns latents [clips, 8, 4, 8, 8], attributes [clips, 4], and the mean and std of each channel [8].
    """
    vae = _vae(vae_state)
    attributes, latents = [], []
    with torch.no_grad():
        for asked, clips in training_clips(settings):
            attributes.append(asked)
            latents.append(vae.encode(to_signed(clips)).latent_dist.mode())
    joined = torch.cat(latents)
    mean, std = joined.mean((0, 2, 3, 4)), joined.std((0, 2, 3, 4))
    print(f"latents {tuple(joined.shape)} mean {mean.tolist()} std {std.tolist()}", flush=True)
    return {"latents": joined, "attributes": torch.cat(attributes), "mean": mean, "std": std}


def train_decoder(settings: Settings, vae_state: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Goes on training the decoder alone, on the latents as they are -> the state dict of the whole VAE."""
    torch.manual_seed(settings.stage_seed("decoder"))
    generator = torch.Generator().manual_seed(settings.stage_seed("decoder"))
    # Drawn once more instead of stored; as bytes, because 5120 clips in float32 are 0.8 GB.
    clips = torch.cat([(batch * 255).round().byte() for _, batch in training_clips(settings)])
    latents, std = data["latents"], data["std"].view(1, -1, 1, 1, 1)
    vae = _vae(vae_state)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    run = Optimisation(parameters, steps=settings.decoder_steps, rate=1.5e-3, hold=0.2, betas=(0.9, 0.99), decay=0.995)
    while run.done < run.steps:
        chosen = torch.randint(0, len(clips), (4,), generator=generator)
        target, latent = to_signed(clips[chosen].float() / 255), latents[chosen]
        # A little noise: what a sampler produces are no exact latents.
        latent = latent + 0.05 * std * torch.randn(latent.shape, generator=generator)
        decoded = vae.decode(latent).sample
        gradient = run.step(_reconstruction_error(decoded, target))
        if run.done % 50 == 0:
            quality = psnr(to_unit(decoded.detach()), to_unit(target)).mean()
            print(f"decoder {run.done} {run.seconds:.0f} s psnr {quality:.2f} gradient {gradient:.2f}", flush=True)
    run.use_average()
    return vae.state_dict()


def training_clips(settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """The same clips at every call: batches of attributes [b, 4] and videos [b, 3, 13, 32, 32] in [0, 1]."""
    generator = torch.Generator().manual_seed(settings.stage_seed("latents"))
    for start in range(0, settings.clips, LATENT_BATCH):
        attributes = sample_attributes(min(LATENT_BATCH, settings.clips - start), generator, TRAIN)
        yield attributes, render(attributes, generator)


@torch.no_grad()
def reconstruct(vae: Any, clips: Tensor) -> Tensor:
    """clips [n, 3, T, H, W] in [0, 1] -> what the VAE makes of them, same shape and range."""
    return to_unit(vae.decode(vae.encode(to_signed(clips)).latent_dist.mode()).sample)


def report(settings: Settings, vae_state: dict[str, Tensor]) -> None:
    """Prints how well fresh clips survive the VAE."""
    asked, _ = evaluation_set("seen", settings.judge_clips)
    clips = render(asked, torch.Generator().manual_seed(99))
    rebuilt = reconstruct(_vae(vae_state), clips)
    print(f"reconstruction psnr {psnr(rebuilt, clips).mean():.2f} {adherence(rebuilt, asked)}", flush=True)


def _vae(state: dict[str, Tensor]) -> Any:
    vae = make_vae()
    vae.load_state_dict(state)
    return vae


def _vae_batch(progress: float, step: int, batch: int, generator: torch.Generator) -> Tensor:
    """Cheap single frames first, then windows of faster and slower motion, then whole clips."""
    if progress < SINGLE_FRAMES_UNTIL:
        attributes = sample_attributes(3 * batch, generator, COMBINATIONS)
        clips = render(attributes, generator, frames=1)
        # Every path begins at the same side: rolling the frame shows the VAE the other positions.
        shift = torch.randint(-6, 7, (2,), generator=generator).tolist()
        return torch.roll(clips, shift, (3, 4))
    if progress < WINDOWS_UNTIL:
        attributes = sample_attributes(batch, generator, COMBINATIONS)
        return render(attributes, generator, frames=5, span=(5, 7, 9, 13)[step % 4])
    return render(sample_attributes(batch // 2, generator, COMBINATIONS), generator, frames=FRAMES)


def _reconstruction_error(decoded: Tensor, clips: Tensor) -> Tensor:
    """The object, found by its saturation, and a rim of two pixels count threefold."""
    saturation = clips.amax(1, keepdim=True) - clips.amin(1, keepdim=True)
    weight = 1 + 2 * F.max_pool3d((saturation > 0.4).float(), (1, 5, 5), 1, (0, 2, 2))
    difference = decoded - clips
    return (weight * (difference.abs() + 1.5 * difference**2)).mean()
