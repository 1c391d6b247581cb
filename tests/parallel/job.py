"""What a case has on its rank: the others, the ways of spreading a model over them, and one process to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import c4d
from c4d import SequenceParallel
from c4d.backends import load

Case = Callable[[], None]

WAYS = {
    2: {"U2": SequenceParallel(2, 1, cfg=1), "R2": SequenceParallel(1, 2, cfg=1)},
    4: {
        "U4": SequenceParallel(4, 1, cfg=1),
        "R4": SequenceParallel(1, 4, cfg=1),
        "U2R2": SequenceParallel(2, 2, cfg=1),
    },
}
BOTH = {2: "U2", 4: "U2R2"}  # for what needs no more than one way
BRANCHED = {  # of loops that call the model twice a step; other ranks make the other branch of guidance
    2: {"cfg2": SequenceParallel(1, 1, cfg=2), "cfg2, jointly": SequenceParallel(1, 1, cfg=2, jointly=True)},
    4: {
        "cfg2 x U2": SequenceParallel(2, 1, cfg=2),
        "cfg2 x U2, jointly": SequenceParallel(2, 1, cfg=2, jointly=True),
    },
}


class Cpu:
    """The CPU backend; a group that it has made it gives again, for making one takes longer than most cases."""

    def __init__(self) -> None:
        self._backend = load("cpu")
        self._groups: dict[tuple[int, ...] | None, Any] = {}

    def group(self, ranks: Any, limit: timedelta) -> Any:
        key = None if ranks is None else tuple(ranks)
        if key not in self._groups:
            self._groups[key] = self._backend.group(ranks, limit)
        return self._groups[key]

    def ungroup(self, group: Any) -> None:
        return None  # they are given again

    def forget(self) -> None:
        """After a failure, on all ranks: groups that it may have broken are made anew."""
        self._groups.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


CPU = Cpu()


def sharded(model: Any, how: SequenceParallel) -> Any:
    return c4d.sharded(model, replace(how, timeout=60.0, groups="torch"), branches=how.cfg or 1, backend=CPU)


def rank() -> int:
    return dist.get_rank()


def gathered(value: Any) -> list[Any]:
    """``value`` of every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def same(value: Any) -> None:
    found = gathered(value)
    assert all(other == found[0] for other in found), f"ranks differ: {found}"


def bits(*tensors: torch.Tensor) -> str:
    """A digest of tensors: equal only for the same numbers."""
    return sha256(b"".join(x.double().numpy().tobytes() for x in tensors)).hexdigest()


def error(got: Any, want: Any) -> float:
    """The largest difference in any number."""
    if isinstance(got, torch.Tensor):
        assert got.shape == want.shape, (got.shape, want.shape)
        return float((got.double() - want.double()).abs().max())
    return max(error(a, b) for a, b in zip(got, want, strict=True))


def passes(session: Any) -> list[Any]:
    return [(entry.run, entry.step, entry.actions, entry.blocks, entry.modules_reused) for entry in session.trace]


def raised(act: Callable[[], Any], *kinds: type[BaseException]) -> str:
    """What ``act`` raises, which is one of ``kinds``; an error here if it raises nothing."""
    try:
        act()
    except kinds as found:
        return f"{type(found).__name__}: {found}"
    raise AssertionError(f"raised nothing; expected {', '.join(kind.__name__ for kind in kinds)}")


def state(model: nn.Module) -> list[Any]:
    """What hangs on a model: every module's hooks and attributes, by identity where they are objects."""
    found: list[Any] = list(model.state_dict())
    for name, module in model.named_modules():
        hooks = [
            [id(hook) for hook in getattr(module, kind).values()]
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
        ]
        processor = id(module.__dict__.get("processor"))
        found.append((name, type(module), hooks, sorted(module.__dict__), processor))
    return found
