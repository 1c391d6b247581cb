"""Stages transformer and distil.

First flow matching on the latents, text encoders and transformer together, with one prompt in ten left out. That model
is guided by two forwards a step. Then a copy of it learns what they give, from one forward and the number of the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from c4d.bundled.compositions import caption

from .fast import half_linears
from .models import CLIP_LENGTH, make_clip, make_t5, make_tokenizer, make_transformer
from .running import Run
from .settings import Settings

TEXT_LENGTHS = (16, 24, 32)  # what callers of the pipeline are told to choose as max_sequence_length
SCALES = (1.0, 8.0)  # of the guidance that is distilled
SIDE = 8  # tokens


class Texts:
    """The captions of all compositions as tokens; the last row is the empty prompt."""

    def __init__(self, compositions: Tensor) -> None:
        prompts = [caption(row) for row in compositions.tolist()] + [""]
        clip, t5 = make_tokenizer(CLIP_LENGTH, begins=True), make_tokenizer(max(TEXT_LENGTHS), begins=False)
        self.vocabulary = len(clip)
        self.empty = len(prompts) - 1
        self.clip = clip(prompts, padding="max_length", return_tensors="pt").input_ids
        self.t5 = t5(prompts, padding="max_length", return_tensors="pt").input_ids
        longest = int((self.t5 != 0).sum(1).max())
        if self.t5.shape[1] != max(TEXT_LENGTHS) or longest > min(TEXT_LENGTHS):
            raise ValueError(f"the longest prompt has {longest} tokens; allowed are up to {min(TEXT_LENGTHS)}")

    def encode(self, clip: Any, t5: Any, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """As FluxPipeline does, which passes no mask: tokens [b, length, 64] and the pooled text [b, 64]."""
        return t5(self.t5[rows, :length]).last_hidden_state, clip(self.clip[rows]).pooler_output


def train_transformer(settings: Settings, data: dict[str, Any], snapshots: Path) -> dict[str, dict[str, Tensor]]:
    """-> the state dicts of the transformer and both text encoders."""
    torch.manual_seed(settings.stage_seed("transformer"))
    generator = torch.Generator().manual_seed(settings.stage_seed("transformer"))
    latents, texts = packed((data["latents"] - data["mean"]) / data["std"]), Texts(data["compositions"])
    clip, t5, transformer = make_clip(texts.vocabulary), make_t5(texts.vocabulary), make_transformer()
    _calm(transformer)
    _look_beside(t5)
    for module in (clip, t5, transformer):
        half_linears(module)
    run = Run(
        snapshots,
        generator,
        parameters=[*transformer.parameters(), *clip.parameters(), *t5.parameters()],
        steps=settings.transformer_steps,
        rate=1.5e-3,
        hold=0.9,
        betas=(0.9, 0.98),
        decay=0.998,
        weight_decay=0.01,
    )
    batch, losses = settings.transformer_batch, list[float]()
    while run.done < run.steps:
        chosen = torch.randint(0, len(latents), (batch,), generator=generator)
        # One prompt in ten is empty, which is what guidance needs.
        prompt = torch.where(torch.rand(batch, generator=generator) < 0.1, texts.empty, chosen)
        text, pooled = texts.encode(clip, t5, prompt, _any_length(generator))
        sigma = _noise_levels(batch, generator)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        noisy = latents[chosen].lerp(noise, sigma.view(-1, 1, 1))
        loss = (velocity(transformer, noisy, sigma, text, pooled, 1.0) - (noise - latents[chosen])).pow(2).mean()
        gradient = run.step(loss)
        run.keep()
        losses = [*losses[-99:], loss.item()]
        if run.done % 100 == 0:
            recent = sum(losses) / len(losses)
            print(f"transformer {run.done} {run.seconds:.0f} s loss {recent:.4f} gradient {gradient:.2f}", flush=True)
    run.use_average()
    return {"transformer": transformer.state_dict(), "clip": clip.state_dict(), "t5": t5.state_dict()}


def distil(
    settings: Settings, data: dict[str, Any], trained: dict[str, dict[str, Tensor]], snapshots: Path
) -> dict[str, dict[str, Tensor]]:
    """A copy of the transformer learns the guided velocity at a random scale -> all state dicts, of text as before.

    At scale 1, that is the velocity with the prompt alone.
    """
    torch.manual_seed(settings.stage_seed("distil"))
    generator = torch.Generator().manual_seed(settings.stage_seed("distil"))
    latents, texts = packed((data["latents"] - data["mean"]) / data["std"]), Texts(data["compositions"])
    clip, t5 = make_clip(texts.vocabulary), make_t5(texts.vocabulary)
    clip.load_state_dict(trained["clip"])
    t5.load_state_dict(trained["t5"])
    teacher, student = make_transformer(), make_transformer()
    for model in (teacher, student):
        model.load_state_dict(trained["transformer"])
        half_linears(model)
    run = Run(
        snapshots,
        generator,
        parameters=student.parameters(),
        steps=settings.distil_steps,
        rate=7e-4,
        hold=0.3,
        betas=(0.9, 0.98),
        decay=0.99,
    )
    batch, losses = settings.distil_batch, list[float]()
    while run.done < run.steps:
        chosen = torch.randint(0, len(latents), (batch,), generator=generator)
        low, high = SCALES
        scale = low + (high - low) * torch.rand(batch, generator=generator)
        sigma = _noise_levels(batch, generator)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        noisy = latents[chosen].lerp(noise, sigma.view(-1, 1, 1))
        with torch.no_grad():
            rows = torch.cat([chosen, torch.full_like(chosen, texts.empty)])
            text, pooled = texts.encode(clip, t5, rows, _any_length(generator))
            both = velocity(teacher, noisy.repeat(2, 1, 1), sigma.repeat(2), text, pooled, 1.0)
            with_prompt, without = both.chunk(2)
            target = torch.lerp(without, with_prompt, scale.view(-1, 1, 1))
        difference = velocity(student, noisy, sigma, text[:batch], pooled[:batch], scale) - target
        # What guidance adds grows with the scale; so does the error, which would drown the low scales.
        loss = (difference.pow(2).mean((1, 2)) / scale).mean()
        gradient = run.step(loss)
        run.keep()
        losses = [*losses[-49:], loss.item()]
        if run.done % 50 == 0:
            recent = sum(losses) / len(losses)
            print(f"distil {run.done} {run.seconds:.0f} s loss {recent:.4f} gradient {gradient:.2f}", flush=True)
    run.use_average()
    return {"transformer": student.state_dict(), "clip": trained["clip"], "t5": trained["t5"]}


def packed(latents: Tensor) -> Tensor:
    """[n, c, 16, 16] -> tokens [n, 64, 4 c], each 2 x 2 latents, as FluxPipeline packs them."""
    n, channels = latents.shape[:2]
    patches = latents.view(n, channels, SIDE, 2, SIDE, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, SIDE * SIDE, 4 * channels)


def velocity(
    transformer: Any, tokens: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor, scale: Tensor | float
) -> Tensor:
    """One forward as FluxPipeline makes it: tokens [b, 64, 16] at noise level sigma [b] -> the same shape."""
    places = torch.zeros(SIDE, SIDE, 3)
    places[..., 1], places[..., 2] = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None]
    return transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=sigma,
        img_ids=places.view(-1, 3),
        txt_ids=torch.zeros(text.shape[1], 3),
        guidance=torch.as_tensor(scale).expand(len(tokens)),
        return_dict=False,
    )[0]


def _any_length(generator: torch.Generator, lengths: Sequence[int] = TEXT_LENGTHS) -> int:
    return lengths[int(torch.randint(0, len(lengths), (1,), generator=generator))]


def _calm(transformer: Any) -> None:
    """A calm start: open gates, small residual branches and zero velocity."""
    width = transformer.inner_dim
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            norm.linear.bias.data.view(6, width)[[2, 5]] = 1.0  # shift, scale, gate of attention, then of the MLP
        layers = (block.attn.to_out[0], block.attn.to_add_out, block.ff.net[2], block.ff_context.net[2])
        for layer in layers:
            layer.weight.data.mul_(0.3)
    for block in transformer.single_transformer_blocks:
        block.norm.linear.bias.data.view(3, width)[2] = 1.0
        block.proj_out.weight.data.mul_(0.3)
    transformer.proj_out.weight.data.zero_()
    transformer.proj_out.bias.data.zero_()


def _look_beside(t5: Any) -> None:
    """T5 begins as a table: what stands at a word is the word, and beside it the codes of the words around it.

    FLUX gives text no places, so that T5 alone can tell which colour goes with which shape, and what is left of what.
    Left to itself it had not begun to look at neighbours after 6600 steps.
    """
    words, width = t5.shared.weight.shape
    attention, heads = t5.encoder.block[0].layer[0].SelfAttention, t5.config.num_heads
    size, code = attention.key_value_proj_dim, (width - words) // t5.config.num_heads
    t5.shared.weight.data.zero_().fill_diagonal_(width**0.5)
    for block in t5.encoder.block:
        block.layer[0].SelfAttention.o.weight.data.zero_()
        block.layer[1].DenseReluDense.wo.weight.data.zero_()
    attention.q.weight.data.zero_()
    for head in range(heads):
        some = torch.nn.functional.normalize(torch.randn(code, words), dim=0)
        attention.v.weight.data[head * size : head * size + code, :words] = 0.5 * some
        places = slice(words + head * code, words + (head + 1) * code)
        attention.o.weight.data[places, head * size : head * size + code] = torch.eye(code)
    # By distance: the word before, the word after, the two before that, the one after that; 16 and more are ahead.
    bias = attention.relative_attention_bias.weight.data.zero_()
    for head, distances in enumerate(((1,), (17,), (2, 3), (18,))):
        bias[list(distances), head] = 8.0


def _noise_levels(n: int, generator: torch.Generator) -> Tensor:
    """Half uniform, half logit-normal, then shifted towards noise by 2 -> [n] in (0, 1]."""
    uniform = torch.rand(n, generator=generator)
    logit_normal = torch.sigmoid(torch.randn(n, generator=generator))
    level = torch.where(torch.rand(n, generator=generator) < 0.5, uniform, logit_normal)
    return (2 * level / (1 + level)).clamp(0.001, 1)
