"""Generating captioned clips with a pipeline that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from c4d.bundled.clips import FRAMES, HELD_OUT, SIZE, TRAIN, Attributes, as_tensor, caption


def evaluation_set(name: str, clips: int = 48, *, seed: int = 0) -> tuple[tuple[Attributes, ...], range]:
    """The prompts and noise seeds on which adherence is reported: `name` is "seen" or "held_out".

    Up to the size of its pool (192 seen combinations, 24 held out) the combinations are evenly spaced over it; beyond,
    the pool is repeated. `seed` moves all noise seeds. Returns (attributes of each clip, seed of each clip).
    Raises ValueError for another name and for clips below 1.
    """
    pools = {"seen": (TRAIN, 5000), "held_out": (HELD_OUT, 9000)}
    if name not in pools:
        raise ValueError(f"evaluation set {name!r} is unknown; allowed are {', '.join(pools)}")
    if clips < 1:
        raise ValueError(f"clips={clips}; allowed are 1 and more")
    pool, first = pools[name]
    size = len(pool)
    chosen = tuple(pool[i * size // clips if clips <= size else i % size] for i in range(clips))
    return chosen, range(first + seed, first + seed + clips)


def generate(
    pipe: Any,
    attributes: Tensor | Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    max_sequence_length: int,
    batch_size: int = 24,
) -> Tensor:
    """Generates one clip for each row of attributes with a text-to-video pipeline that takes Wan's arguments.

    Each clip has its own generator, so its noise does not depend on the batch that it is in; what remains of the batch
    is rounding. Returns [n, 3, 13, 32, 32] in [0, 1] on the CPU.
    Raises ValueError for attributes that `as_tensor` refuses, unequal counts and batch_size below 1.
    """

    def make(prompts: list[str], generators: list[torch.Generator]) -> Tensor:
        frames: Tensor = pipe(
            prompts,
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
            generator=generators,
            output_type="pt",
        ).frames
        return frames

    return _in_batches(make, attributes, seeds, batch_size)


def roll_out(
    rollout: Any,
    attributes: Tensor | Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    frames: int = FRAMES,
    batch_size: int = 24,
) -> Tensor:
    """The same with a :func:`c4d.rollout`, for clips of any length -> [n, 3, frames, 32, 32] in [0, 1] on the CPU."""

    def make(prompts: list[str], generators: list[torch.Generator]) -> Tensor:
        with rollout(prompts, frames=frames, height=SIZE, width=SIZE, generator=generators) as stream:
            return torch.cat([block.cpu() for block in stream], 1)

    return _in_batches(make, attributes, seeds, batch_size)


def _in_batches(
    make: Callable[[list[str], list[torch.Generator]], Tensor],
    attributes: Tensor | Sequence[Sequence[int]],
    seeds: Sequence[int],
    batch_size: int,
) -> Tensor:
    """``make`` gives [n, T, 3, H, W]."""
    asked = as_tensor(attributes)
    if len(seeds) != len(asked) or not len(asked):
        raise ValueError(f"{len(seeds)} seeds for {len(asked)} rows of attributes; allowed are equal counts above 0")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed are 1 and more")
    parts = [slice(start, start + batch_size) for start in range(0, len(asked), batch_size)]
    made = [
        make([caption(row) for row in asked[p]], [torch.Generator().manual_seed(seed) for seed in seeds[p]])
        for p in parts
    ]
    return torch.cat([video.cpu() for video in made]).transpose(1, 2)
