"""Groups of ranks out of xfuser's parallel state, which the rest of xfuser then finds: its VAE and text encoders.

Attention is not xfuser's (docs/parallel.md says why). What can run here is what xfuser itself says; its state is one
for the process, and this module keeps none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist

from c4d.backends import Backend
from c4d.parallel.collectives import Group
from c4d.parallel.degrees import Degrees
from c4d.parallel.mesh import Mesh, layout

VERSION = "0.7.0"  # whose order of ranks the tests hold against ours


def missing(degrees: Degrees, backend: Backend) -> str | None:
    """What keeps xfuser from making these groups for this backend, in words; None if nothing does."""
    try:
        found = version("xfuser")
    except PackageNotFoundError:
        return "xfuser is not installed"
    if found != VERSION:
        return f"xfuser {found} is installed; c4d knows the groups of {VERSION}"
    try:
        from xfuser import envs
        from xfuser.core.distributed import parallel_state as state
    except Exception as error:  # it asks for its device while it is imported
        return f"xfuser {found} cannot be imported here: {type(error).__name__}: {error}"
    if (device := envs.get_device_name()) != backend.device_type:
        return f"xfuser would work on {device}, c4d works on {backend.device_type}"
    if not state.HAS_LONG_CTX_ATTN:
        return "xfuser finds no yunchang on a device that it knows, and would drop ulysses and ring without a word"
    if state.model_parallel_is_initialized() and (there := built(state)) != degrees:
        return (
            f"its parallel state was set up in this process with {there}, and these groups are {degrees}; it holds one "
            "at a time: xfuser.core.distributed.parallel_state.destroy_model_parallel() ends the old one"
        )
    return None


def build(degrees: Degrees, rank: int, backend: Backend, timeout: float) -> Mesh:
    """Sets xfuser's parallel state up, or takes the one that is there; every rank of the job calls it.

    Raises RuntimeError if xfuser made other groups than it was asked for.
    """
    from xfuser.core.distributed import parallel_state as state

    limit = timedelta(seconds=timeout)
    device = torch.device(backend.device_type)
    there = state.model_parallel_is_initialized()
    if not there:
        # The device that this process works on already, whatever its number among those of the machine.
        local = 0 if device.type == "cpu" else torch.accelerator.current_device_index()
        with filled_in(timeout=limit, backend=backend.collectives):
            state.init_distributed_environment(local_rank=local, backend=backend.collectives)
            state.initialize_model_parallel(
                data_parallel_degree=degrees.data,
                classifier_free_guidance_degree=degrees.cfg,
                sequence_parallel_degree=degrees.sequence,
                ulysses_degree=degrees.ulysses,
                ring_degree=degrees.ring,
                backend=backend.collectives,
            )
    if (made := built(state)) != degrees:
        raise RuntimeError(f"xfuser {VERSION} was asked for {degrees} and set up {made} without a word")
    tokens = state.get_sp_group()
    handles = {
        "ulysses": tokens.ulysses_group,
        "ring": tokens.ring_group,
        "sequence": tokens.device_group,
        "cfg": state.get_cfg_group().device_group,
        "request": state.get_model_replica_group().device_group,
    }
    mine: dict[str, Group | None] = {}
    for name, groups in layout(degrees).items():
        ranks = next(ranks for ranks in groups if rank in ranks)
        if (theirs := dist.get_process_group_ranks(handles[name])) != ranks:
            raise RuntimeError(f"xfuser {VERSION} put rank {rank} into the {name} group {theirs} instead of {ranks}")
        if there:  # made by others, or by an earlier session with another timeout
            handles[name]._get_backend(device)._set_default_timeout(limit)
        mine[name] = Group(handles[name], len(ranks), ranks.index(rank)) if len(ranks) > 1 else None
    return Mesh(degrees, rank, **mine, made_by=f"xfuser {VERSION}", ours=())


def built(state: Any) -> Degrees:
    """What xfuser's parallel state says of itself."""
    tokens, branches, prompts = state.get_sp_group(), state.get_cfg_group(), state.get_dp_group()
    return Degrees(tokens.ulysses_world_size, tokens.ring_world_size, branches.world_size, prompts.world_size)


@contextmanager
def filled_in(**arguments: Any) -> Iterator[None]:
    """``torch.distributed.new_group`` gets these wherever its caller leaves them out, while the block lasts.

    xfuser and yunchang make their groups with torch's own timeout (10 or 30 minutes, not that of the job), and yunchang
    with the backend of the job; neither takes others. Changing the groups afterwards would miss the connections that a
    group makes at once, and the groups that nobody hands out. No other group can arise meanwhile: every process of a
    job has to make its groups in one order, so not in two threads.
    """
    plain = dist.new_group
    dist.new_group = partial(plain, **arguments)
    try:
        yield
    finally:
        dist.new_group = plain
