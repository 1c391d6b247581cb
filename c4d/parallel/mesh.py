"""The groups of ranks of a job, in one fixed order: Ulysses fastest, then Ring, then guidance, then data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from c4d.parallel.collectives import Group
from c4d.parallel.degrees import Degrees

NewGroup = Callable[[Sequence[int] | None, timedelta], Any]  # Backend.group


@dataclass(frozen=True)
class Mesh:
    """Where a rank stands. A group of one rank is None: nothing is sent in it.

    ``ulysses`` and ``ring`` share an attention, ``sequence`` (both) the tokens of a forward, ``cfg`` its counterparts
    for the other branch of guidance, ``request`` all that work on one prompt. ``made_by`` in words who made them;
    ``ours`` are those that end with the session, in the order in which they were made.
    """

    degrees: Degrees
    rank: int
    ulysses: Group | None
    ring: Group | None
    sequence: Group | None
    cfg: Group | None
    request: Group | None
    made_by: str = ""
    ours: tuple[Any, ...] = ()

    @property
    def position(self) -> int:
        """Among the ranks that share the tokens of a forward."""
        return self.rank % self.degrees.sequence

    @property
    def branch(self) -> int:
        return self.rank // self.degrees.sequence % self.degrees.cfg

    @property
    def replica(self) -> int:
        return self.rank // self.degrees.request


def layout(d: Degrees) -> Mapping[str, list[list[int]]]:
    """Every group of ranks by what it shares, in the order in which they have to be made."""

    def ranks(*, u: Sequence[int], r: Sequence[int], c: Sequence[int], of: int) -> list[int]:
        return [((of * d.cfg + b) * d.ring + j) * d.ulysses + i for b in c for j in r for i in u]

    U, R, C, D = (range(n) for n in d)
    return {
        "ulysses": [ranks(u=U, r=[r], c=[c], of=n) for n in D for c in C for r in R],
        "ring": [ranks(u=[u], r=R, c=[c], of=n) for n in D for c in C for u in U],
        "sequence": [ranks(u=U, r=R, c=[c], of=n) for n in D for c in C],
        "cfg": [ranks(u=[u], r=[r], c=C, of=n) for n in D for r in R for u in U],
        "request": [ranks(u=U, r=R, c=C, of=n) for n in D],
    }


def build(degrees: Degrees, rank: int, new_group: NewGroup, timeout: float, made_by: str = "torch.distributed") -> Mesh:
    """Makes the groups; every rank of the job calls it, with the same degrees."""
    limit, mine, made = timedelta(seconds=timeout), dict[str, Group | None](), dict[tuple[int, ...], Any]()
    for name, groups in layout(degrees).items():
        for ranks in groups:
            if len(ranks) > 1 and tuple(ranks) not in made:  # Ulysses alone is the sequence, too: one group for both
                made[tuple(ranks)] = new_group(ranks, limit)
            if rank in ranks:
                handle = made.get(tuple(ranks))
                mine[name] = None if handle is None else Group(handle, len(ranks), ranks.index(rank))
    return Mesh(degrees, rank, **mine, made_by=made_by, ours=tuple(made.values()))
