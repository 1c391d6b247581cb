"""Who makes the groups of ranks: xfuser where it runs, torch.distributed elsewhere, in the same order of ranks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from c4d.backends import Backend
from c4d.parallel import xfuser
from c4d.parallel.agree import DisagreementError
from c4d.parallel.degrees import Degrees, SequenceParallel
from c4d.parallel.mesh import Mesh, build


def make(how: SequenceParallel, degrees: Degrees, rank: int, backend: Backend) -> Mesh:
    """Every rank of the job calls it, and learns what the others were given before any of them makes a group.

    Ranks that made different groups, one with xfuser and one without, would wait for each other until the timeout.

    Raises :class:`DisagreementError` if ``how`` or ``degrees`` are not the same on all; RuntimeError, with the reason,
    if xfuser was asked for by name and cannot make the groups on one of them.
    """
    if degrees.world == 1:
        return build(degrees, rank, backend.group, how.timeout)
    everyone = backend.group(None, timedelta(seconds=how.timeout))
    mesh = _agreed(how, degrees, rank, backend, everyone)
    if not any(group is everyone for group in mesh.ours):
        backend.ungroup(everyone)
    return mesh


def _agreed(how: SequenceParallel, degrees: Degrees, rank: int, backend: Backend, everyone: Any) -> Mesh:
    said: list[Any] = [None] * degrees.world
    mine = None if how.groups == "torch" else xfuser.missing(degrees, backend)
    dist.all_gather_object(said, (how, degrees, mine), group=everyone)
    for other, (its, division, _) in enumerate(said):
        if (its, division) != said[0][:2]:
            raise DisagreementError(
                f"ranks 0 and {other} of this job were given different degrees: {said[0][1]} ({said[0][0]}) and "
                f"{division} ({its}); all ranks need the same"
            )
    reasons = {other: why for other, (*_, why) in enumerate(said) if why is not None}
    if how.groups != "torch" and not reasons:
        return xfuser.build(degrees, rank, backend, how.timeout)
    if how.groups == "xfuser":
        other, why = min(reasons.items())
        raise RuntimeError(f"xfuser cannot make the groups of ranks (rank {other}): {why}")

    def new_group(ranks: Any, limit: timedelta) -> Any:
        return everyone if len(ranks) == degrees.world else backend.group(ranks, limit)

    by = "torch.distributed" if how.groups == "torch" else f"torch.distributed ({reasons[min(reasons)]})"
    return build(degrees, rank, new_group, how.timeout, by)
