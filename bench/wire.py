"""What a rank sends: every collective of a program, c4d's and others', as torch's dispatcher sees it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode

HERE = ("wait_tensor", "_wrap_tensor_autograd")  # which send nothing


class Sent(NamedTuple):
    """One collective: its name, and how many bytes of this rank went to others."""

    name: str
    bytes: int


class Wire(TorchDispatchMode):
    """Counts while its ``with`` block lasts. A gather sends what a rank has to each of the others, a reduction (as a
    ring makes it) twice what it has, less the share that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Sent] = []

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.sent)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, name = func._schema.name.split("::")
        if space in ("_c10d_functional", "c10d") and name not in HERE:
            self.sent.append(Sent(name, sent(name, args)))
        return func(*args, **(kwargs or {}))


def sent(name: str, args: tuple[Any, ...]) -> int:
    functional = isinstance(args[-1], str)
    if name == "all_to_all_single":  # (input, output splits, input splits, group)
        return _parted(args[0], args[2], _group(args[3]))
    if name == "alltoall_base_":  # (output, input, group, output splits, input splits, …)
        return _parted(args[1], args[4], _group(args[2]))
    if name == "all_gather_into_tensor":  # (input, size, group)
        return size(args[0]) * (args[1] - 1)
    if name == "_allgather_base_":  # (output, input, group, …)
        return size(args[1]) * (_group(args[2]).size() - 1)
    if name == "allgather_":  # ([[outputs]], [input], group, …)
        return size(args[1][0]) * (_group(args[2]).size() - 1)
    if name in ("all_reduce", "allreduce_"):
        x, group = (args[0], _group(args[-1])) if functional else (args[0][0], _group(args[1]))
        return 2 * size(x) * (group.size() - 1) // group.size()
    if name == "barrier":
        return 0
    raise NotImplementedError(f"how many bytes does {name} send?")


def size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _parted(x: Tensor, parts: list[int], group: Any) -> int:
    """Of x, cut along its first dimension, all but the part that stays."""
    rows = x.shape[0]
    stays = parts[group.rank()] if parts else rows // group.size()
    return size(x) * (rows - stays) // rows


def _group(group: Any) -> Any:
    return _resolve_process_group(group) if isinstance(group, str) else dist.ProcessGroup.unbox(group)
