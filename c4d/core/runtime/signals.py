"""From signals to numbers: one device vector, one agreement, one host read per deciding forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from c4d.core.spec import Stack
from c4d.core.types import Primitives, RelativeL1, Signal, Step

K = TypeVar("K", Signal, tuple[int, Signal])  # of a whole batch, or of one of its samples


class DecisionSync(Protocol):
    """The processes that make one request together, as a session asks for them."""

    def compare(
        self, transformer: nn.Module, method: str, step: Step, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Before a forward of it with these arguments; may raise if other ranks make another one."""
        ...

    @property
    def branches_apart(self) -> bool:
        """Whether each branch of guidance has ranks of its own."""
        ...

    def runs_elsewhere(self, transformer: nn.Module) -> bool:
        """True if only other ranks run the forward under way (each branch of guidance on its own ranks)."""
        ...

    def begin(
        self, transformer: nn.Module, stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The first call of a loop over ``stack`` in a forward under way, with this rank's tokens."""
        ...

    def local_args(self, transformer: nn.Module, stack: Stack, named: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a block of ``stack`` in a forward under way, by name, as this rank's block gets them."""
        ...

    def unpadded(self, transformer: nn.Module, x: Tensor, spread: bool = True) -> tuple[Tensor, int]:
        """``x`` [B, D] or [B, tokens, D] of this forward without padding, and its element count over all ranks.

        Unless it is ``spread``, every rank has all of it.
        """
        ...

    def all_sum(
        self, partial: Tensor, counts: Sequence[tuple[int, int]], failed: bool, apart: bool = False
    ) -> list[list[float]]:
        """Sums of ``partial`` [n, k] over all ranks, on the host; raises if a rank ``failed`` to measure.

        ``apart``: sums within one branch of guidance, even where the branches decide together.
        ``counts``: the element counts behind each row, on this rank and on all.
        """
        ...

    def project(self, transformer: nn.Module, basis: Tensor, x: Tensor) -> Tensor:
        """Tokens [B, n, D] of a forward under way on the span of ``basis`` [K, S] (orthonormal), over all S tokens."""
        ...

    def own(self, transformer: nn.Module, x: Tensor) -> Tensor:
        """Of [S], one for each token of a forward under way, those of this rank's; 0 where it has filled them up."""
        ...


class SingleProcess:
    """A single process: its own sums are the sums over all ranks."""

    branches_apart = False

    def compare(
        self, transformer: nn.Module, method: str, step: Step, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        return None

    def runs_elsewhere(self, transformer: nn.Module) -> bool:
        return False

    def begin(
        self, transformer: nn.Module, stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    def local_args(self, transformer: nn.Module, stack: Stack, named: Mapping[str, Any]) -> Mapping[str, Any]:
        return named

    def unpadded(self, transformer: nn.Module, x: Tensor, spread: bool = True) -> tuple[Tensor, int]:
        return x, x.numel()

    def all_sum(
        self, partial: Tensor, counts: Sequence[tuple[int, int]], failed: bool, apart: bool = False
    ) -> list[list[float]]:
        return [] if failed else partial.tolist()

    def own(self, transformer: nn.Module, x: Tensor) -> Tensor:
        return x

    def project(self, transformer: nn.Module, basis: Tensor, x: Tensor) -> Tensor:
        check_grid(basis, x.shape[1])
        with exact(x):
            return (basis.T @ (basis @ x.float())).to(x.dtype)


def exact(x: Tensor) -> AbstractContextManager[object]:
    """Without autocast, where it is on for the device of ``x``."""
    kind = x.device.type
    able = torch.amp.is_autocast_available(kind)  # tensors without numbers are nowhere
    return torch.autocast(kind, enabled=False) if able and torch.is_autocast_enabled(kind) else nullcontext()


def check_grid(basis: Tensor, tokens: int) -> None:
    """Raises RuntimeError unless the grid that a spec gives has as many places as there are tokens."""
    if basis.shape[1] != tokens:
        raise RuntimeError(f"the spec's grid has {basis.shape[1]} places, and {tokens} tokens reach the exit")


class SignalReader:
    """Measures changes and counts the host reads that this takes."""

    def __init__(self, backend: Primitives, ranks: DecisionSync) -> None:
        self._backend, self._ranks = backend, ranks
        self.host_reads = 0

    def read(self, pairs: Mapping[K, tuple[Tensor, Tensor]], wholes: Mapping[K, int]) -> dict[K, RelativeL1]:
        """{signal: (now, before)} -> {signal: change summed over the ranks}; no pairs, no read.

        ``wholes``: how many numbers all ranks have of each.
        The partial sums of all signals travel as one [signals, 2] fp32 tensor, in the order of their names: that of a
        set differs from process to process.
        """
        if not pairs:
            return {}
        pairs = {signal: pairs[signal] for signal in sorted(pairs, key=_place)}
        failure = None
        try:
            changes = [self._backend.change(now, before) for now, before in pairs.values()]
            partial = torch.stack(changes) if len(changes) > 1 else changes[0][None]
        except Exception as error:  # the other ranks are told before it is raised: they wait for this one's numbers
            now, _ = next(iter(pairs.values()))
            failure, partial = error, torch.zeros(len(pairs), 2, device=now.device)
        counts = [(now.numel(), wholes[signal]) for signal, (now, _) in pairs.items()]
        rows = self._ranks.all_sum(partial, counts, failure is not None)
        self.host_reads += 1
        if failure is not None:
            raise failure
        return {signal: RelativeL1(delta, base) for signal, (delta, base) in zip(pairs, rows, strict=True)}


def _place(key: Signal | tuple[int, Signal]) -> tuple[int, str]:
    sample, signal = key if isinstance(key, tuple) else (0, key)
    return sample, signal.value
