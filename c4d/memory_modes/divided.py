"""Weights divided over the ranks of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import nn

from c4d.backends import Backend
from c4d.core.integration.transformers import transformers_of
from c4d.memory_modes.mode import Kind, Part, denoisers_and_others, device_of, mode, moved_already, uses_parts_of_blocks
from c4d.parallel import start


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def _lacking(pipe: Any, backend: Backend, ranks: int | None) -> str | None:
    world = _world()
    if world == 1:
        return (
            "it divides weights over the ranks of a job, and this process is alone: start it with torchrun (c4d: "
            "--ranks N), or take groups"
        )
    if world % (ranks or world):
        able = ", ".join(str(n) for n in range(2, world + 1) if world % n == 0)
        return f"{world} ranks are no whole number of times {ranks}: give ranks={able}"
    for part in transformers_of(pipe).values():
        if uses_parts_of_blocks(part):
            name = type(part).__name__
            return f"{name} does not use its blocks as wholes alone (diffusers says so): take components or sequential"
        weights = part.named_parameters() if "_modules" in vars(part) else ()  # a skeleton has none
        if strange := next((name for name, weight in weights if not weight.is_floating_point()), None):
            return f"{strange} of {type(part).__name__} is quantized: load it without, or take components"
    return moved_already(pipe)


def _blocks(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    """The members of every list of modules that is in no other's member."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child, True)
        elif listed:
            yield child
        else:
            yield from _blocks(child)


def divide(transformer: nn.Module, mesh: Any) -> None:
    """Leaves this rank its part of every weight; each block is whole while it runs, and the rest during a forward."""
    from torch.distributed.fsdp import fully_shard

    for block in [*_blocks(transformer), transformer]:
        if next(block.parameters(), None) is not None:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    transformer.register_forward_hook(_after, always_call=True)


def _after(transformer: Any, args: Any, output: Any) -> None:
    """A forward that raised leaves weights gathered, and torch in the middle of it."""
    if output is None:
        transformer.reset_iter_state()


def _apply(pipe: Any, backend: Backend, ranks: int | None, timeout: float) -> None:
    from torch.distributed.device_mesh import DeviceMesh

    job = start(backend, timeout)
    size, limit, device = ranks or job.world, timedelta(seconds=timeout), device_of(backend)
    groups = [backend.group(range(first, first + size), limit) for first in range(0, job.world, size)]
    mesh = DeviceMesh.from_group(groups[job.rank // size], backend.device_type)
    denoisers, others = denoisers_and_others(pipe)
    for part in denoisers:
        divide(part, mesh)
    for part in others:
        part.to(device)


@mode("divided", Kind.PLACE, "bit for bit")
def divided(ranks: int | None = None, timeout: float = 600.0) -> Part:
    """Each rank of a job has a part of the transformers' weights; a block's are gathered while it runs.

    torch's ``fully_shard`` (FSDP2), block by block. So many ``ranks`` in a row have the weights once (None: all of the
    job); they have to make each forward together. ``timeout``: seconds that gathering may take. A block that a cache
    skips is not gathered.
    """
    if ranks is not None and ranks < 2:
        raise ValueError(f"ranks is {ranks}; allowed are whole numbers from 2")
    return Part(
        partial(_apply, ranks=ranks, timeout=timeout), partial(_lacking, ranks=ranks), ("float8", "int8"), over=ranks
    )
