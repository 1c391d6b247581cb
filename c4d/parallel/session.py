"""Several ranks at work on the transformers of one pipeline, while a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from c4d.backends import Backend
from c4d.backends.kernels import Call, choose, name_of
from c4d.core.attention import compute_dtype
from c4d.core.fitting import AttentionSession
from c4d.core.measure import Alone
from c4d.parallel.agree import Agreement
from c4d.parallel.attention import Kernels
from c4d.parallel.branches import Branching
from c4d.parallel.mesh import Mesh
from c4d.parallel.sharding import Sharding, check_whole


class Parallel:
    """Spreads the transformers of ``attention`` over the ranks of ``mesh``; made by :func:`c4d.sharded`.

    Every rank gets the whole result. What it holds of a cache is its own part of the tokens. ``passed_on``: the kernels
    that give the partial results of a ring.
    """

    def __init__(
        self,
        attention: AttentionSession,
        mesh: Mesh,
        kernels: Kernels,
        place: Callable[[], Any] | None,
        jointly: bool,
        passed_on: Sequence[str],
    ) -> None:
        self.mesh, self.attention, self._passed_on = mesh, attention, passed_on
        self._together = None if mesh.request is None else Agreement(mesh.request)
        self._agreement = None if mesh.sequence is None else Agreement(mesh.sequence)
        self._deciding = (self._together if jointly else self._agreement) or Alone()
        fittings, cfg = attention.fittings, mesh.cfg
        self._branchings = [] if cfg is None else [Branching(fitting.transformer, cfg, place) for fitting in fittings]
        self._shardings = [] if mesh.sequence is None else [Sharding(fitting, mesh, kernels) for fitting in fittings]

    def __enter__(self) -> Parallel:
        self.attention.__enter__()
        try:
            for fitting in self.attention.fittings if self._shardings else ():
                check_whole(fitting)
            for sharding in self._shardings:
                sharding.install()
            for branching in self._branchings:
                branching.install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for branching in self._branchings:
            branching.remove()
        for sharding in self._shardings:
            sharding.remove()
        self.attention.__exit__(*exc)

    @property
    def collectives(self) -> int:
        """How many were made to agree on decisions."""
        return sum(agreement.calls for agreement in (self._agreement, self._together) if agreement is not None)

    def mean(self, number: float) -> float:
        """Of a number of each rank of this request; every one of them has to ask for it."""
        if self.mesh.request is None:
            return number
        numbers: list[Any] = [None] * self.mesh.request.size
        dist.all_gather_object(numbers, number, group=self.mesh.request.handle)
        return fsum(numbers) / len(numbers)

    def said(self) -> str:
        """How ranks are divided, who made their groups, and which kernels give the partial results of a ring."""
        through = f"; attention in the ring through {' and '.join(self._passed_on)}" if self._passed_on else ""
        return f"{self.mesh.degrees}; groups by {self.mesh.made_by}{through}"

    def lines(self) -> list[str]:
        """:meth:`said`, and what computes the attention."""
        return [self.said(), *self.attention.lines()]

    # -- for a cache session

    def begin(self, run: str, inputs: Mapping[str, Any]) -> None:
        if self._together is not None:
            self._together.check(run, inputs)

    def elsewhere(self, transformer: nn.Module) -> bool:
        return any(b.transformer is transformer and b.elsewhere for b in self._branchings)

    def mine(self, transformer: nn.Module, named: Mapping[str, Any]) -> Mapping[str, Any]:
        for sharding in self._shardings:
            if sharding.transformer is transformer:
                return {name: sharding.mine(name, value) for name, value in named.items()}
        return named

    def valid(self, transformer: nn.Module, x: Tensor) -> Tensor:
        for sharding in self._shardings:
            if sharding.transformer is transformer:
                return sharding.valid(x)
        return x

    def sums(self, partial: Tensor, counts: Sequence[int], failed: bool) -> list[list[float]]:
        return self._deciding.sums(partial, counts, failed)

    def project(self, transformer: nn.Module, basis: Tensor, x: Tensor) -> Tensor:
        for sharding in self._shardings:
            if sharding.transformer is transformer:
                return sharding.project(basis, x)
        return Alone().project(transformer, basis, x)


def partial_kernels(
    attention: AttentionSession, backend: Backend, kernel: str, dtype: torch.dtype | None = None
) -> list[str]:
    """The names of those that give a ring its partial results, for the heads of every attention.

    ``dtype``: what they compute in, None: what the transformers do. Raises :class:`Unsupported` if there are none.
    """
    kernels = backend.attention_kernels
    calls = {
        Call(dtype or compute_dtype(None, fitting.transformer), size, lse=True, heads=heads)
        for fitting in attention.fittings
        for heads, size in fitting.heads_of
    }
    return sorted({name_of(kernels, choose(kernels, call, kernel)) for call in calls})
