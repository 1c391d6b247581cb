"""A few blocks at a time, the next ones on their way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from c4d.backends import Backend
from c4d.core.integration.transformers import transformers_of
from c4d.memory_modes.mode import (
    Kind,
    Part,
    denoisers_and_others,
    device_of,
    mode,
    modules_of,
    needs_device,
    uses_parts_of_blocks,
)
from c4d.memory_modes.weights import blocks_of, deepest, size_of


def _lacking(pipe: Any, backend: Backend) -> str | None:
    if fixed := [type(part).__name__ for part in transformers_of(pipe).values() if uses_parts_of_blocks(part)]:
        return f"diffusers does not offload {fixed[0]} in groups: take components or sequential"
    return needs_device(pipe, backend)


def _apply(pipe: Any, backend: Backend, blocks: int) -> None:
    from diffusers.hooks import apply_group_offloading

    device, (denoisers, others) = device_of(backend), denoisers_and_others(pipe)
    for part in denoisers:
        # They run in every step, in one order: only there is fetching ahead worth the pinned copy on the host.
        how: dict[str, Any] = dict(offload_type="block_level", num_blocks_per_group=blocks)
        apply_group_offloading(part, onload_device=device, use_stream=backend.asynchronous, **how)
    for part in others:
        if uses_parts_of_blocks(part):
            part.to(device)
        else:
            apply_group_offloading(part, onload_device=device, offload_type="leaf_level")


def _holds(pipe: Any, called: Sequence[str], backend: Backend, blocks: int) -> int:
    """Of a transformer what is no block, and a group, or two where the next is fetched ahead (then of one block)."""
    running, others = modules_of(pipe)[called[-1]], denoisers_and_others(pipe)[1]
    fixed = [part for part in others if uses_parts_of_blocks(part)]
    if running in others:
        return size_of(*fixed) + (0 if running in fixed else deepest(running))
    stacks = blocks_of(running)
    each, ahead = (1, 2) if backend.asynchronous else (blocks, 1)
    groups = [size_of(*stack[i : i + each]) for stack in stacks for i in range(0, len(stack), each)]
    rest = size_of(running) - sum(size_of(*stack) for stack in stacks)
    return size_of(*fixed) + rest + ahead * max(groups, default=0)


@mode("groups", Kind.PLACE, "bit for bit")
def groups(blocks: int = 1) -> Part:
    """So many ``blocks`` of a transformer are on the device at a time, and the next are fetched while they run.

    diffusers' ``apply_group_offloading``: block by block for the transformers, with prefetch on a stream of its own
    where the device has streams, layer by layer for the other components. Blocks that a cache skips are not fetched.
    """
    if blocks < 1:
        raise ValueError(f"blocks is {blocks}; allowed are whole numbers from 1")
    return Part(partial(_apply, blocks=blocks), _lacking, holds=partial(_holds, blocks=blocks))
