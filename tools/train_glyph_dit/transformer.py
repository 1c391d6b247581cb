"""Stage transformer: it learns which noise was added to a latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from c4d.bundled.glyphs import LETTERS
from tools.training.optimise import Optimisation

from .models import NULL_CLASS, make_scheduler, make_transformer
from .progress import Progress
from .settings import Settings

PLAIN_STEPS = 2500  # learned on all noise levels alike; after these, on those that decide about the shape
RATE_STEPS = 13500  # over so many the learning rate falls; the averaged weights were good enough before
WITHOUT_CLASS = 0.1  # the fraction of the pictures that are learned without their class, which is what guidance needs


def train_transformer(settings: Settings, data: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
    """-> the state dict of the transformer."""
    torch.manual_seed(settings.stage_seed("transformer"))
    generator = torch.Generator().manual_seed(settings.stage_seed("transformer"))
    latents, letters = data["latents"] / data["std"], data["letters"]
    transformer = fresh_transformer()
    run = Optimisation(
        transformer.parameters(),
        steps=RATE_STEPS,
        rate=1.2e-3,
        hold=0.3,
        betas=(0.9, 0.98),
        decay=0.999,
        weight_decay=0.01,
    )
    progress.resume(transformer, run, generator)
    kept = make_scheduler().alphas_cumprod
    odds, weights = emphasis(kept)
    batch, losses = settings.transformer_batch, []
    while run.done < settings.transformer_steps:
        chosen = torch.randint(0, len(latents), (batch,), generator=generator)
        label = torch.where(torch.rand(batch, generator=generator) < WITHOUT_CLASS, NULL_CLASS, letters[chosen])
        plain = run.done < PLAIN_STEPS
        if plain:
            time = torch.randint(0, len(kept), (batch,), generator=generator)
        else:
            time = torch.multinomial(odds, batch, replacement=True, generator=generator)
        level = kept[time].view(-1, 1, 1, 1)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        seen = transformer(noisy, timestep=time, class_labels=label, return_dict=False)[0]
        error = (seen - noise).pow(2).mean((1, 2, 3))
        loss = (error if plain else weights[time] * error).mean()
        gradient = run.step(loss)
        losses.append(loss.item())
        if run.done % 100 == 0:
            recent = sum(losses[-100:]) / len(losses[-100:])
            print(f"transformer {run.done} {run.seconds:.0f} s loss {recent:.4f} gradient {gradient:.2f}", flush=True)
        progress.keep(transformer, run, generator)
    run.use_average()
    return transformer.state_dict()


def emphasis(kept: Tensor) -> tuple[Tensor, Tensor]:
    """How often each noise level is learned, and the weight of its error; kept [levels]: the picture's share in it.

    Plain error is mostly that of fine grain in nearly clean pictures. What the letter is, is decided where there is
    less picture than noise: its weight in the sum is 1 / (signal to noise + 0.1), and at least 0.1. Levels around 420
    of 1000 are drawn more often and count less for it, which makes the same sum with less chance in it.
    """
    level = torch.arange(len(kept)) / len(kept)
    odds = 0.3 + 2.15 * torch.exp(-0.5 * ((level - 0.42) / 0.13) ** 2)
    odds = odds / odds.mean()
    signal = kept / (1 - kept)
    return odds, (1 / (signal + 0.1)).clamp_min(0.1) / odds


def fresh_transformer() -> Any:
    """A calm start: blocks that do nothing, and zero noise. Classes without a letter stay zero: they say nothing.

    It is in evaluation mode, also to be trained: in training mode each block forgets classes by itself, and what
    guidance needs is a picture whose class no block knows.
    """
    transformer = make_transformer().eval()
    for block in transformer.transformer_blocks:
        block.norm1.linear.weight.data.zero_()
        block.norm1.linear.bias.data.zero_()
        table = block.norm1.emb.class_embedder.embedding_table.weight.data
        table.mul_(0.1)
        table[len(LETTERS) : NULL_CLASS] = 0
    for layer in (transformer.proj_out_1, transformer.proj_out_2):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    return transformer


def averaged(progress: Progress) -> dict[str, Tensor]:
    """The averaged weights of an unfinished run -> the state dict of the transformer."""
    transformer = make_transformer()
    for parameter, average in zip(transformer.parameters(), progress.read()["average"], strict=True):
        parameter.data.copy_(average)
    return transformer.state_dict()
