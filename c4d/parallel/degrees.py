"""How the ranks of a job are divided: over the heads and the tokens of a request, its guidance branches, and requests.

Ranks are numbered with Ulysses fastest, then Ring, then guidance, then data: the exchanges that carry most stay inside
a node (as xfuser and yunchang order them, ``use_ulysses_low``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple


class Degrees(NamedTuple):
    """``ulysses`` x ``ring`` ranks share a forward, ``cfg`` of these the branches of guidance, ``data`` the prompts."""

    ulysses: int
    ring: int
    cfg: int = 1
    data: int = 1

    @property
    def sequence(self) -> int:
        return self.ulysses * self.ring

    @property
    def request(self) -> int:
        """Ranks that work on one prompt."""
        return self.sequence * self.cfg

    @property
    def world(self) -> int:
        return self.request * self.data

    def refusal(self, over: Sequence[int]) -> str | None:
        """Why weights cannot be divided over these ranks; None if they make every forward together."""
        if len({rank // self.sequence for rank in over}) <= 1:
            return None
        fewer = f" (divided:ranks={self.sequence}, of which {self.sequence} do)"
        return (
            f"weights are divided over ranks {over[0]} to {over[-1]}, which do not make every forward together "
            f"({self}): those of other prompts, or of the other branch of guidance, run other blocks; use cfg=1 and "
            f"data=1, or divide them over fewer{fewer if self.sequence > 1 else ''}"
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {n}" for name, n in self._asdict().items() if n > 1) or "one rank alone"


@dataclass(frozen=True)
class SequenceParallel:
    """Spreads one request over the ranks of a job.

    Args:
        ulysses: ranks that exchange heads for tokens around each self-attention (arXiv 2309.14509); heads that do not
            divide are filled up with zeros.
        ring: ranks that pass keys and values round (arXiv 2310.01889).
        cfg: 2 gives each branch of guidance ranks of its own; 1 lets all ranks make both, one after the other.
        data: groups of ranks with prompts of their own.
        jointly: both branches of guidance take the same decisions: each is as slow as the other anyway.
        timeout: seconds that a collective may take before the job fails.
        groups: who makes the groups of ranks, "xfuser" or "torch", in the same order of ranks; "auto" takes xfuser
            where it runs.
        watch: ranks beat into the job's store while they are at work, and one that is lost is named
            (:class:`c4d.LostRankError`).

    What is None is chosen from the number of ranks, of those in a node, of heads and of branches: guidance first,
    then as much Ulysses as divides the heads and stays inside a node, then Ring.
    """

    ulysses: int | None = None
    ring: int | None = None
    cfg: int | None = None
    data: int = 1
    jointly: bool = False
    timeout: float = 600.0
    groups: str = "auto"
    watch: bool = True

    def __post_init__(self) -> None:
        for name in Degrees._fields:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.cfg is not None and self.cfg > 2:
            raise ValueError(f"cfg must be 1 or 2, the branches of guidance, got {self.cfg}")
        if not isinstance(self.timeout, int | float) or isinstance(self.timeout, bool) or not self.timeout > 0:
            raise ValueError(f"timeout must be seconds above 0, got {self.timeout!r}")
        if self.groups not in ("auto", "xfuser", "torch"):
            raise ValueError(f"groups must be 'auto', 'xfuser' or 'torch', got {self.groups!r}")

    def degrees(self, world: int, *, node: int, heads: int, branches: int) -> Degrees:
        """What to use on ``world`` ranks, ``node`` of them in each machine, for a model of so many ``heads``.

        Raises ValueError, listing what is possible, if what was given does not fit.
        """
        given = {name: getattr(self, name) for name in Degrees._fields}
        able = possible(world, heads, branches)
        fits = [d for d in able if all(n is None or getattr(d, name) == n for name, n in given.items())]
        if not fits:
            here = [d for d in able if d.data == self.data] or [d for d in able if d.data == 1]
            asked = ", ".join(f"{name}={n}" for name, n in given.items() if n not in (None, 1)) or "this division"
            once = " (branches=2, if every step calls the model twice)" if self.cfg == 2 and branches == 1 else ""
            raise ValueError(
                f"{asked} does not fit {_counted(world, 'rank')}, {_counted(heads, 'head')} and "
                f"{_counted(branches, 'branch', 'es')} of guidance{once}; possible are: {'; '.join(map(str, here))}"
            )
        best = max(fits, key=lambda d: (d.cfg, d.ulysses <= node, heads % d.ulysses == 0, d.ulysses))
        if self.jointly and best.cfg == 1:
            raise ValueError(f"jointly is for cfg=2, where each branch of guidance has ranks of its own; here: {best}")
        return best


def possible(world: int, heads: int, branches: int) -> list[Degrees]:
    """Every division of ``world`` ranks that a model of so many heads and branches of guidance allows."""
    divisors = [n for n in range(1, world + 1) if world % n == 0]

    def found() -> Iterator[Degrees]:
        for data, cfg, ulysses in product(divisors, (1, 2), divisors):
            ring, rest = divmod(world, data * cfg * ulysses)
            if rest == 0 and ring and cfg <= branches and ulysses <= heads:
                yield Degrees(ulysses, ring, cfg, data)

    return list(found())


def _counted(n: int, what: str, more: str = "s") -> str:
    return f"{n} {what}{more if n > 1 else ''}"
