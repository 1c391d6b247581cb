"""Stage transformer: flow matching on the latents, text encoder and transformer together."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from c4d.bundled import caption
from tools.training.optimise import Optimisation

from .models import make_text_encoder, make_tokenizer, make_transformer
from .settings import Settings

PROMPT_LENGTH = 11  # nine words, </s>, one padding token
PADDED_LENGTHS = (16, 16, 32, 64, 226, 512)  # what callers of the pipeline choose as max_sequence_length
TRANSFORMER_HOLD = 0.17  # in steps; in the wall time of the original run it was 0.3 (see vae.py)


class PaddedCrossAttention(WanAttnProcessor):
    """Cross-attention to one zero token that stands for `count` of them: log(count) is added to its logit.

    WanPipeline pads the prompt embeddings with zeros up to max_sequence_length (512 unless the caller says otherwise)
    and attends to the padding. Training with a random count makes the model indifferent to that length, at no cost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.zeros(1, 1, 1, PROMPT_LENGTH)

    def pad_to(self, length: int) -> None:
        self.bias[..., -1] = math.log(length - PROMPT_LENGTH + 1)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        return super().__call__(attn, hidden_states, encoder_hidden_states, self.bias, rotary_emb)


def train_transformer(settings: Settings, data: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """-> the state dicts of the transformer and the text encoder."""
    torch.manual_seed(settings.stage_seed("transformer"))
    generator = torch.Generator().manual_seed(settings.stage_seed("transformer"))
    mean, std = (data[key].view(1, -1, 1, 1, 1) for key in ("mean", "std"))
    latents = (data["latents"] - mean) / std
    tokenizer = make_tokenizer()
    text_encoder, transformer = make_text_encoder(len(tokenizer)), make_transformer()
    ids, mask = _tokenise(tokenizer, data["attributes"])
    padding = PaddedCrossAttention()
    for block in transformer.blocks:
        block.attn2.set_processor(padding)
    _calm(transformer)
    run = Optimisation(
        [*transformer.parameters(), *text_encoder.parameters()],
        steps=settings.transformer_steps,
        rate=1.5e-3,
        hold=TRANSFORMER_HOLD,
        betas=(0.9, 0.98),
        decay=0.998,
        weight_decay=0.01,
    )
    losses: list[float] = []
    batch = settings.transformer_batch
    while run.done < run.steps:
        chosen = torch.randint(0, len(latents), (batch,), generator=generator)
        # One prompt in ten is empty (the last row), which is what guidance needs.
        prompt = torch.where(torch.rand(batch, generator=generator) < 0.1, len(latents), chosen)
        padding.pad_to(PADDED_LENGTHS[int(torch.randint(0, len(PADDED_LENGTHS), (1,), generator=generator))])
        text = text_encoder(ids[prompt], mask[prompt]).last_hidden_state * mask[prompt][..., None]
        sigma = _noise_levels(batch, generator)
        level = sigma.view(-1, 1, 1, 1, 1)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        velocity = transformer((1 - level) * clean + level * noise, sigma * 1000, text, return_dict=False)[0]
        loss = (velocity - (noise - clean)).pow(2).mean()
        gradient = run.step(loss)
        losses.append(loss.item())
        if run.done % 100 == 0:
            recent = sum(losses[-100:]) / 100
            print(f"transformer {run.done} {run.seconds:.0f} s loss {recent:.4f} gradient {gradient:.2f}", flush=True)
    run.use_average()
    return {"transformer": transformer.state_dict(), "text_encoder": text_encoder.state_dict()}


def _tokenise(tokenizer: Any, attributes: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and mask [n + 1, PROMPT_LENGTH] of the captions; the last row is the empty prompt."""
    prompts = [caption(row) for row in attributes] + [""]
    encoded = tokenizer(prompts, padding="max_length", max_length=PROMPT_LENGTH, return_tensors="pt")
    if encoded.attention_mask.sum(1).max() != PROMPT_LENGTH - 1:
        raise ValueError(f"the longest prompt has not {PROMPT_LENGTH - 1} tokens; each needs one padding token")
    return encoded.input_ids, encoded.attention_mask


def _calm(transformer: Any) -> None:
    """A calm start: small residual branches and zero velocity."""
    for block in transformer.blocks:
        for layer, scale in ((block.attn1.to_out[0], 0.3), (block.attn2.to_out[0], 0.5), (block.ffn.net[2], 0.3)):
            layer.weight.data.mul_(scale)
    transformer.proj_out.weight.data.zero_()
    transformer.proj_out.bias.data.zero_()


def _noise_levels(n: int, generator: torch.Generator) -> Tensor:
    """Half uniform, half logit-normal, then shifted towards noise by 2 -> [n] in (0, 1]."""
    uniform = torch.rand(n, generator=generator)
    logit_normal = torch.sigmoid(torch.randn(n, generator=generator))
    level = torch.where(torch.rand(n, generator=generator) < 0.5, uniform, logit_normal)
    return (2 * level / (1 + level)).clamp(0.001, 1)
