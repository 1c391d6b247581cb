"""From probes to numbers: one device vector, one agreement, one host read per deciding pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from c4d.core.types import Change, Primitives, Probe

Agree = Callable[[Tensor], Tensor]


def alone(partial: Tensor) -> Tensor:
    """The agreement of a single process: its own sums are the sums over all ranks."""
    return partial


class Meter:
    """Measures changes and counts the host reads that this takes."""

    def __init__(self, backend: Primitives, agree: Agree = alone) -> None:
        self._backend, self._agree = backend, agree
        self.host_reads = 0

    def read(self, pairs: Mapping[Probe, tuple[Tensor, Tensor]]) -> dict[Probe, Change]:
        """{probe: (now, before)} -> {probe: change summed over the ranks}; no pairs, no read.

        The partial sums of all probes travel as one [probes, 2] fp32 tensor through one ``agree``.
        """
        if not pairs:
            return {}
        changes = [self._backend.change(now, before) for now, before in pairs.values()]
        rows = self._agree(torch.stack(changes) if len(changes) > 1 else changes[0][None]).tolist()
        self.host_reads += 1
        return {probe: Change(delta, base) for probe, (delta, base) in zip(pairs, rows, strict=True)}
