"""Generating captioned clips with a pipeline that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
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
    asked = as_tensor(attributes)
    if len(seeds) != len(asked) or not len(asked):
        raise ValueError(f"{len(seeds)} seeds for {len(asked)} rows of attributes; allowed are equal counts above 0")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed are 1 and more")
    batches = []
    for start in range(0, len(asked), batch_size):
        part = slice(start, start + batch_size)
        result = pipe(
            [caption(row) for row in asked[part]],
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="pt",
        )
        batches.append(result.frames.cpu())
    return torch.cat(batches).transpose(1, 2)  # the pipeline gives [n, T, 3, H, W]
