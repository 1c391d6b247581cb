"""Two ranks over the real ProcessGroupHCCL: each function runs on both, and says there what it found wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

from c4d.backends.ascend import Ascend
from tests.ascend.sim import ranks
from tests.ascend.sim.order import OutOfOrder


def reductions(rank):
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64):
        x = torch.arange(5, device="npu").to(dtype) * (rank + 1)
        dist.all_reduce(x)
        assert x.tolist() == [0, 3, 6, 9, 12], dtype
    with pytest.raises(RuntimeError, match="kDouble"):  # torch_npu's own word: numbers to agree on are fp32
        dist.all_reduce(torch.ones(2, device="npu", dtype=torch.float64))
    x = torch.tensor([1.5, -2.0], device="npu") * (rank + 1)
    dist.all_reduce(x, op=dist.ReduceOp.MAX)
    assert x.tolist() == [3.0, -2.0]
    out = torch.empty(2, device="npu")
    dist.reduce_scatter_tensor(out, torch.arange(4.0, device="npu"))
    assert out.tolist() == [4 * rank, 4 * rank + 2]
    dist.broadcast(x, 1)
    whole = torch.empty(4, device="npu")
    dist.all_gather_into_tensor(whole, x + rank)
    assert whole.tolist() == [3.0, -2.0, 4.0, -1.0]
    found = [None, None]
    dist.all_gather_object(found, {"rank": rank})
    assert found == [{"rank": 0}, {"rank": 1}]


def exchanges(rank):
    even, into = torch.arange(4.0, device="npu") + 10 * rank, torch.empty(4, device="npu")
    dist.all_to_all_single(into, even)
    assert into.tolist() == ([0, 1, 10, 11], [2, 3, 12, 13])[rank]
    gives, takes = ([3, 1], [3, 3]) if rank == 0 else ([3, 1], [1, 1])  # uneven: rank 0 gets 3 of each
    into = torch.empty(sum(takes), 2, device="npu")
    dist.all_to_all_single(into, even[:, None].expand(4, 2).contiguous(), takes, gives)
    assert into[:, 0].tolist() == ([0, 1, 2, 10, 11, 12], [3, 13])[rank]
    functional = funcol.all_to_all_single(even, [2, 2], [2, 2], dist.group.WORLD)  # as diffusers does it
    assert funcol.wait_tensor(functional).tolist() == ([0, 1, 10, 11], [2, 3, 12, 13])[rank]
    other = torch.empty(4, device="npu")
    pair = [dist.P2POp(dist.isend, even, 1 - rank), dist.P2POp(dist.irecv, other, 1 - rank)]
    for work in dist.batch_isend_irecv(pair):
        work.wait()
    assert (other - 10 * (1 - rank)).tolist() == [0, 1, 2, 3]


def groups(rank):
    backend = Ascend()
    everybody = backend.group(None, timedelta(seconds=30))
    alone = [backend.group([r], timedelta(seconds=30)) for r in range(2)]
    x = torch.ones(3, device="npu")
    dist.all_reduce(x, group=everybody)
    dist.all_reduce(x, group=alone[rank])
    assert x.tolist() == [2, 2, 2] and dist.get_backend(everybody) == "hccl"


def order(rank):
    """A collective runs on a stream of its own: its result is there after wait(), not before."""
    x = torch.ones(3, device="npu")
    work = dist.all_reduce(x, async_op=True)
    with pytest.raises(OutOfOrder):
        x + 1
    work.wait()
    assert (x + 1).tolist() == [3, 3, 3]


def a_rank_that_does_not_come(rank):
    if rank == 0:
        dist.all_reduce(torch.ones(3, device="npu"))


def everything(rank):
    for work in (reductions, exchanges, groups, order):
        work(rank)


def test_two_ranks():
    ranks.run(everything)


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setenv("C4D_SIM_TIMEOUT", "1")
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="error code is 9"):
        ranks.run(a_rank_that_does_not_come)
