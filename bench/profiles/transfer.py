"""How far the profile of wan-tiny carries: other samplers, guidance, numbers of steps, sizes, lengths, weights, dtypes.

    python -m bench.profiles.transfer [--computed 14] [--samples 24]

Nothing is fitted again. Each row is PSNR to the uncached run under the very same conditions, mean / worst, beside plain
steps of the same cost. Written to docs/measurements/profiles/transfer.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

import c4d
from bench.profiles.page import close, closer
from bench.profiles.script import Options, run
from bench.yardsticks import HELD, Yardstick
from c4d.metrics import psnr

NAME = "wan-tiny"
Case = tuple[str, dict[str, Any], Callable[[Yardstick], None]]


def nothing(yardstick: Yardstick) -> None:
    return None


def with_sampler(name: str, shift: float | None = None) -> Callable[[Yardstick], None]:
    def use(yardstick: Yardstick) -> None:
        yardstick.use(yardstick.sampler(name, shift))

    return use


def with_lora(yardstick: Yardstick) -> None:
    """Random low-rank changes of a tenth of each attention's weights, as a fine-tuned model has them."""
    make = torch.Generator().manual_seed(0)
    for block in yardstick.pipe.transformer.blocks:
        for attention in (block.attn1, block.attn2):
            for part in (attention.to_q, attention.to_k, attention.to_v):
                weight = part.weight
                low = torch.randn(weight.shape[0], 4, generator=make) @ torch.randn(4, weight.shape[1], generator=make)
                weight.data += 0.1 * weight.norm() / low.norm() * low


def in_bf16(yardstick: Yardstick) -> None:
    yardstick.pipe.transformer.to(torch.bfloat16)


def cases() -> Iterator[Case]:
    yield "as it was made (UniPC, 50 steps, guidance 4)", {}, nothing
    for sampler in ("euler", "dpm++"):
        yield f"sampler {sampler}", {}, with_sampler(sampler)
    for guidance in (2.0, 3.0, 5.0, 6.0, 8.0):
        yield f"guidance {guidance:g}", {"guidance_scale": guidance}, nothing
    for steps in (30, 40, 80):
        yield f"{steps} steps", {"num_inference_steps": steps}, nothing
    for shift in (1.0, 8.0):
        yield f"Euler, shift {shift:g}", {}, with_sampler("euler", shift)
    yield "32 x 64 pixels", {"width": 64}, nothing
    yield "25 frames", {"num_frames": 25}, nothing
    yield "text length 512", {"max_sequence_length": 512}, nothing
    yield "weights changed by a LoRA", {}, with_lora
    yield "transformer in bfloat16", {}, in_bf16


def head(options: Options) -> str:
    return f"""# How far a profile carries: {NAME}, {options.computed} computed steps

PSNR in dB to the uncached run under the same conditions, mean / worst of {options.samples} held-out clips.
The profile was made with UniPC, 50 steps, guidance 4, 13 frames of 32 x 32 pixels, in float32; nothing is
fitted again. A small model: no large one has been measured.

| conditions | profile | {options.computed} plain steps | closer by |
|---|---|---|---|
"""


def rows(options: Options) -> Iterator[str]:
    count = options.computed
    for said, more, prepare in cases():
        yardstick = Yardstick(NAME)
        prepare(yardstick)
        prompts, seeds = HELD[NAME](options.samples)
        reference = yardstick.make(prompts, seeds, **more)
        plain = psnr(yardstick.make(prompts, seeds, **{**more, "num_inference_steps": count}), reference).tolist()
        with c4d.cached(yardstick.pipe, f"profile:{NAME},computed={count}"):
            ours = psnr(yardstick.make(prompts, seeds, **more), reference).tolist()
        yield f"| {said} | {close(ours)} | {close(plain)} | {closer(ours, plain)} |"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--computed", type=int, default=14)


if __name__ == "__main__":
    sys.exit(run(__doc__, "transfer", head, rows, arguments))
