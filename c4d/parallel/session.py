"""Several ranks at work on the transformers of one pipeline, while a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from c4d.core.fitting import AttentionSession
from c4d.core.spec import ModelSpec
from c4d.parallel.agree import Agreement
from c4d.parallel.attention import Kernels
from c4d.parallel.branches import Branching
from c4d.parallel.mesh import Mesh
from c4d.parallel.sharding import Sharding, check_whole


class Parallel:
    """Spreads ``transformers`` over the ranks of ``mesh``; made by :func:`c4d.sharded`.

    Every rank gets the whole result. What it holds of a cache is its own part of the tokens. ``attention`` is the
    session that computes it.
    """

    def __init__(
        self,
        transformers: Mapping[str, tuple[nn.Module, ModelSpec]],
        mesh: Mesh,
        attention: AttentionSession,
        kernels: Kernels,
        place: Callable[[], Any] | None,
        jointly: bool,
        passed_on: str,
    ) -> None:
        self.mesh, self._passed_on = mesh, passed_on
        self.attention = attention
        self._together = None if mesh.request is None else Agreement(mesh.request)
        self._agreement = None if mesh.sequence is None else Agreement(mesh.sequence)
        self._deciding = self._together if jointly else self._agreement
        modules = [module for module, _ in transformers.values()]
        self._branchings = [] if mesh.cfg is None else [Branching(module, mesh.cfg, place) for module in modules]
        self._shardings = (
            [
                Sharding(module, spec, mesh, fitting, kernels)
                for (module, spec), fitting in zip(transformers.values(), attention.fittings, strict=True)
            ]
            if mesh.sequence is not None
            else []
        )

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
        through = f"; attention in the ring through {self._passed_on}" if self._passed_on else ""
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

    def valid(self, transformer: nn.Module, x: Tensor) -> Tensor:
        for sharding in self._shardings:
            if sharding.transformer is transformer:
                return sharding.valid(x)
        return x

    def sums(self, partial: Tensor, counts: Sequence[int], failed: bool) -> list[list[float]]:
        if self._deciding is not None:
            return self._deciding.sums(partial, counts, failed)
        return [] if failed else partial.tolist()
