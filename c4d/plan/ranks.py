"""Ranks that are not there: what they would send is noted, and what they would answer is assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from c4d.core.attention import Sees
from c4d.core.integration.processor_patch import AttentionSession, ProcessorPatch
from c4d.parallel.agree import Agreement
from c4d.parallel.attention import Kernels
from c4d.parallel.collectives import Group
from c4d.parallel.degrees import Degrees
from c4d.parallel.mesh import Mesh
from c4d.parallel.session import Parallel
from c4d.parallel.sharding import Sharding
from c4d.plan.shapes import Shapes
from c4d.plan.traffic import COMPARED, Attention, Gather, OfKeys, Sent, Told

STILL, MOVED = 0.0, 1e6  # how far signals moved, relative to what they were: never enough, always enough


class PlannedAgreement(Agreement):
    """Answers with one change for every signal, whatever was measured."""

    def __init__(self, group: Group, sequence: int, told: list[Sent], change: float) -> None:
        super().__init__(group, sequence)
        self._told, self._change = told, change

    def check(self, call: str, inputs: Mapping[str, Any]) -> None:
        self.calls += 1
        self._told.append(COMPARED)

    def all_sum(self, partial: Tensor, counts: Sequence[tuple[int, int]], failed: bool) -> list[list[float]]:
        self.calls += 1
        rows, columns = partial.shape
        self._told.append(Told(rows * (columns + 3) * partial.element_size()))
        if columns == 2:
            return [[self._change, 1.0]] * rows
        side = round(columns**0.5)  # inner products of features: of orthonormal ones
        return [torch.eye(side).flatten().tolist()] * rows


class PlannedSharding(Sharding):
    """The cuts of a rank, without the exchanges."""

    told: list[Sent]

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        absent: tuple[int, ...] | None,
        text_first: bool,
        sees: Sees | None,
    ) -> Tensor:
        n, length = self.cut.each, self.cut.length
        assert length is not None
        B, S, H, D = q.shape
        self.told.append(Attention(B, length, S - n, k.shape[1] - n, H, D, q.element_size()))
        if self._group.size > 1:
            self.check_mask(mask, absent, k.shape[1] - n)
        return torch.empty_like(q)

    def attend_keys(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        assert self.cut.length is not None
        B, S, H, D = q.shape
        self.told.append(OfKeys(B, self.cut.length, S, H, D, q.element_size()))
        return torch.empty_like(q)

    def leave(self, args: Any, output: Tensor) -> Tensor:
        assert self.cut.length is not None
        self.told.append(Gather(output.shape[0], self.cut.length, output.shape[2], output.element_size()))
        return super().leave(args, output)

    def project(self, basis: Tensor, x: Tensor) -> Tensor:
        self.told.append(Told(x.shape[0] * basis.shape[0] * x.shape[-1] * 4))
        return super().project(basis, x)


class PlannedRanks(Parallel):
    """The first of ``ranks`` that share the tokens of a transformer; ``told`` gets what it would send."""

    def __init__(
        self, attention: AttentionSession, shapes: Shapes, ranks: int, told: list[Sent], change: float
    ) -> None:
        self._told, self._change = told, change
        cut = all(fitting.spec.sharding is not None for fitting in attention.fittings)
        group = Group(SimpleNamespace(group_name="planned"), ranks, 0)
        mesh = Mesh(Degrees(1, ranks), 0, None, None, group if cut else None, None, group)
        super().__init__(attention, lambda: mesh, lambda group: None, Kernels.of(shapes), None, False, ())
        self.unused = self.attention.unused = None

    def _spread(self) -> None:
        super()._spread()
        assert self._together is not None
        self._deciding = self._agreement = self._together

    def _agreement_of(self, group: Group) -> Agreement:
        return PlannedAgreement(group, self.mesh.degrees.sequence, self._told, self._change)

    def _sharding_of(self, fitting: ProcessorPatch) -> Sharding:
        made = PlannedSharding(fitting, self.mesh, self._kernels)
        made.told = self._told
        return made
