"""One decision on all ranks: the numbers that it depends on are gathered, and summed in the order of the ranks.

A reduction would do, too, but not in an order that is the same for every backend; and what is gathered tells which rank
is at fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c4d.core.integration.attach import session_of
from c4d.parallel.collectives import Group, gather

SAMPLED, ROWS = 16, 8  # numbers of an input that ranks compare, and rows of such: a digest and as many inputs
COLUMNS = 8192
ROUNDED = 1e-6  # of a count in fp32; a token is more, of up to a million
NEAR = 0.02  # of an input's length: what text encoders may differ by on two devices, and two prompts do not
ADVICE = (
    "all ranks that share a request need the same prompts, sizes, options and noise (give the pipeline a generator= of "
    "one seed)"
)


class DisagreementError(RuntimeError):
    """Ranks that make one request were given different ones, or one of them failed."""


class Agreement:
    """Of the ranks of ``group``; each ``sequence`` of them share a forward's tokens. ``calls`` counts collectives."""

    def __init__(self, group: Group, sequence: int) -> None:
        self._group, self._sequence = group, sequence
        self.calls = 0

    def all_sum(self, partial: Tensor, counts: Sequence[tuple[int, int]], failed: bool) -> list[list[float]]:
        """[n, k] of every rank -> sums in the order of the ranks, [n][k].

        ``counts``: of how many numbers each row is made here, and on all ranks that share a forward. Raises
        :class:`DisagreementError` if any rank failed, or if what they measured is not all of the same whole.
        """
        # Filled on the device: a copy from the host would wait for it once more.
        more = [torch.cat([partial.new_full((1,), n) for n in (*pair, failed)]) for pair in counts]
        ranks = self._read(torch.cat((partial, torch.stack(more)), 1))
        broken = [str(rank) for rank, rows in enumerate(ranks) if rows[0][-1]]
        if broken and not failed:
            raise DisagreementError(f"rank {', '.join(broken)} of this request failed in this step; see what it says")
        for rows in zip(*ranks, strict=True) if not broken else ():
            self._check_counts([(row[-3], row[-2]) for row in rows])
        return [[math.fsum(of) for of in zip(*rows, strict=True)][:-3] for rows in zip(*ranks, strict=True)]

    def _check_counts(self, counts: Sequence[tuple[float, float]]) -> None:
        """Of each rank, the numbers that it measured and the whole of which they are a part, rounded to fp32."""
        measured, wholes = zip(*counts, strict=True)
        wanted = wholes[0] * len(counts) / self._sequence
        if len(set(wholes)) > 1 or not math.isclose(math.fsum(measured), wanted, rel_tol=ROUNDED):
            raise DisagreementError(
                f"the ranks of this request measured {listed(measured)} numbers, in their order, as parts of "
                f"{listed(wholes)}: their models or sizes differ, or the spec's signal is not of the tokens"
            )

    def check(self, call: str, inputs: Mapping[str, Any]) -> None:
        """Raises :class:`DisagreementError` on every rank unless all make the same ``call`` with nearly equal inputs.

        One collective of a fixed size: ranks that were given different shapes meet in it, too.
        """
        tensors = {name: x for name, x in sorted(inputs.items()) if isinstance(x, Tensor) and x.numel()}
        said = "\n".join([call, *(f"{name} {list(x.shape)} {x.dtype}" for name, x in tensors.items())])
        names = list(tensors)[: ROWS - 1]
        device = next((x.device for x in tensors.values()), torch.device("cpu"))
        rows = torch.zeros(ROWS, SAMPLED, device=device)
        rows[0] = torch.tensor(list(sha256(said.encode()).digest()[:SAMPLED]), device=device)
        for row, name in enumerate(names, 1):
            rows[row] = sample(tensors[name])
        first, *others = self._read(rows)
        for rank, found in enumerate(others, 1):
            if found[0] != first[0]:
                raise DisagreementError(
                    f"ranks 0 and {rank} of this request have different methods, numbers of steps, branches of "
                    f"guidance or shapes: {ADVICE}"
                )
            for row, name in enumerate(names, 1):
                if not near(first[row], found[row]):
                    lacking = [r for r, x in ((0, first), (rank, found)) if not all(map(math.isfinite, x[row]))]
                    raise DisagreementError(
                        f"ranks 0 and {rank} of this request were given different {name} ({call})"
                        f"{f', not finite on rank {lacking[0]}' if lacking else ''}: {ADVICE}"
                    )

    def _read(self, x: Tensor) -> list[list[list[float]]]:
        self.calls += 1
        return gather(x, self._group).tolist()


def listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{n:.0f}" for n in numbers)


def refuse_alone(transformer: nn.Module) -> None:
    """Raises RuntimeError if a cache is at work on it that would decide without the other ranks."""
    session = session_of(transformer)
    if session is not None and session.alone:
        raise RuntimeError(
            f"{type(transformer).__name__} is spread over several ranks, but its cache would decide on each of them "
            "alone: enter c4d.sharded before it, or give both to one c4d.accelerate(…, cache=…, parallel=…)"
        )


def sample(x: Tensor) -> Tensor:
    """The L2 norm of x, and its projections on ``SAMPLED`` - 1 fixed random sign vectors, divided by the norm; fp32.

    Every number of x counts: two prompts differ, however much padding they share.
    """
    flat = x.detach().reshape(-1).float()
    rows = -(-flat.numel() // COLUMNS)
    grid = F.pad(flat, (0, rows * COLUMNS - flat.numel())).view(rows, COLUMNS)
    make = torch.Generator().manual_seed(0)  # each direction is a product of two of random signs
    down, across = (torch.randint(0, 2, (SAMPLED - 1, n), generator=make) * 2.0 - 1 for n in (rows, COLUMNS))
    far = ((down.to(x.device) @ grid) * across.to(x.device)).sum(1)
    length = flat.norm()
    return torch.cat((length[None], far / length.clamp_min(torch.finfo(torch.float32).tiny)))


def near(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two samples may be of the same input: their lengths, and the directions.

    Nothing but numbers on both sides is compared: what is broken on all ranks alike is no disagreement.
    """

    def close(a: float, b: float, limit: float) -> bool:
        return a == b or abs(a - b) <= limit or (math.isnan(a) and math.isnan(b))

    (length, *far), (its, *theirs) = one, other
    return close(length, its, NEAR * abs(length)) and all(close(a, b, NEAR) for a, b in zip(far, theirs, strict=True))
