"""What ranks send each other in a forward: functional collectives, which compiled blocks can hold, too."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

ops = torch.ops._c10d_functional


class Group(NamedTuple):
    """Ranks that talk to each other, as torch.distributed has them; how many, and which this one is."""

    handle: Any
    size: int
    rank: int

    @property
    def name(self) -> str:
        return str(self.handle.group_name)


def exchange(x: Tensor, group: Group) -> Tensor:
    """x [P, ...]: part i goes to rank i of the group; of the result, part i came from rank i. Sends (P-1)/P of x."""
    parts = [1] * group.size
    return wait(ops.all_to_all_single(x.contiguous(), parts, parts, group.name))


def pass_on(x: Tensor, group: Group) -> Tensor:
    """Starts to send x to the next rank and to receive the previous one's, which :func:`wait` gives."""
    flat, index, size = x.reshape(-1), group.rank, group.size
    give, take = [0] * size, [0] * size
    give[(index + 1) % size] = take[(index - 1) % size] = flat.numel()
    return ops.all_to_all_single(flat, take, give, group.name)


def gather(x: Tensor, group: Group) -> Tensor:
    """[P, ...]: x of every rank, in their order. Every rank sends x to each other one."""
    return wait(ops.all_gather_into_tensor(x.contiguous(), group.size, group.name)).view(group.size, *x.shape)


def wait(pending: Tensor) -> Tensor:
    return ops.wait_tensor(pending)
