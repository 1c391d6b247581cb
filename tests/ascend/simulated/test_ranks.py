"""Two ranks over the real ProcessGroupHCCL: each function runs on both, and says there what it found wrong."""

from __future__ import annotations

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch.utils._python_dispatch import _get_current_dispatch_mode

import c4d
from c4d.backends.ascend import Ascend
from c4d.core.runtime.signals import SignalReader, SingleProcess
from c4d.core.types import Signal
from c4d.parallel.agree import Agreement
from c4d.parallel.collectives import Group
from tests.ascend.sim import ranks
from tests.ascend.sim.order import OutOfOrder
from tests.backends.doubles import exact
from tests.tiny import CASES, rand


def reductions(rank):
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64):
        x = torch.arange(5, device="npu").to(dtype) * (rank + 1)
        dist.all_reduce(x)
        assert x.tolist() == [0, 3, 6, 9, 12], dtype
    with pytest.raises(RuntimeError, match="kDouble"):  # torch_npu's own word: numbers to agree on are fp32
        dist.all_reduce(torch.ones(2, device="npu", dtype=torch.float64))
    _get_current_dispatch_mode().unfit.clear()
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
    for group in (everybody, *alone):  # also one of which this rank is no member
        backend.ungroup(group)
    dist.all_reduce(x)
    assert x.tolist() == [4, 4, 4]


def order(rank):
    """A collective runs on a stream of its own: its result is there after wait(), not before."""
    x = torch.ones(3, device="npu")
    work = dist.all_reduce(x, async_op=True)
    with pytest.raises(OutOfOrder):
        x + 1
    work.wait()
    assert (x + 1).tolist() == [3, 3, 3]


def shares(rank, dtype):
    """q, k, v [B, S / 2, H, D] of this rank, and what comes out of its queries, in double precision."""
    make = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, 24, 4, 32, generator=make).to(dtype) for _ in range(3))
    mine = slice(12 * rank, 12 * (rank + 1))
    return *(x[:, mine].npu() for x in (q, k, v)), exact(q, k, v, scale=32**-0.5)[0][:, mine]


def near(out, wanted):
    unit = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}[out.dtype]  # of bf16: parts and the whole are each rounded
    return torch.allclose(out.cpu().double(), wanted, rtol=unit, atol=unit)


def ulysses(rank):
    """Each rank attends with all tokens of half of the heads: once all-to-all there, once back."""
    backend = Ascend()
    group = backend.group(None, timedelta(seconds=30))

    def exchanged(parts):
        out = torch.empty_like(parts := parts.contiguous())
        dist.all_to_all_single(out, parts, group=group)
        return out

    for dtype in (torch.float32, torch.bfloat16):
        *given, wanted = shares(rank, dtype)
        q, k, v = (exchanged(x.unflatten(2, (2, 2)).movedim(2, 0)).movedim(0, 1).flatten(1, 2) for x in given)
        assert q.shape == (2, 24, 2, 32)
        out = backend.attention(q, k, v)
        out = exchanged(out.unflatten(1, (2, 12)).movedim(1, 0)).movedim(0, 2).flatten(2, 3)
        assert near(out, wanted) and out.dtype == dtype


def ring(rank):
    """Keys and values go round, and each rank merges what its queries see of each part."""
    backend = Ascend()
    group = backend.group(None, timedelta(seconds=30))
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v, wanted = shares(rank, dtype)
        here, there = torch.stack((k, v)), torch.empty(2, *k.shape, dtype=dtype, device="npu")
        pair = [dist.P2POp(dist.isend, here, 1 - rank, group), dist.P2POp(dist.irecv, there, 1 - rank, group)]
        moving = dist.batch_isend_irecv(pair)
        mine, lse = backend.attention_lse(q, k, v)  # while they move
        with pytest.raises(OutOfOrder):
            there + 1
        for work in moving:
            work.wait()
        other, other_lse = backend.attention_lse(q, *there)
        assert lse.dtype == torch.float32 and lse.shape == (2, 4, 12)
        share = (lse - torch.logaddexp(lse, other_lse)).exp().mT[..., None]
        assert near((share * mine + (1 - share) * other).to(dtype), wanted)
        for wrong in (0.5, 1 - share):
            assert not near((wrong * mine + (1 - wrong) * other).to(dtype), wanted)


def numbers_that_decide(rank):
    """Partial sums are gathered and added up in the order of the ranks: every rank decides by the same bits."""
    agreement = Agreement(Group(Ascend().group(None, timedelta(seconds=30)), 2, rank), 2)
    make = torch.Generator().manual_seed(7)
    now, before = (torch.randn(2, 24, 8, generator=make).bfloat16() for _ in range(2))
    mine = slice(12 * rank, 12 * (rank + 1))
    pair = {Signal.FIRST_BLOCKS: (now[:, mine].npu(), before[:, mine].npu())}
    meter, alone = SignalReader(Ascend(), agreement), SignalReader(Ascend(), SingleProcess())
    seen, own = (each.read(pair, {Signal.FIRST_BLOCKS: now.numel()})[Signal.FIRST_BLOCKS] for each in (meter, alone))
    whole = [(now.double() - before.double()).abs().sum().item(), before.double().abs().sum().item()]
    assert meter.host_reads == 1 and list(seen) == pytest.approx(whole, rel=1e-6)
    found = [None, None]
    dist.all_gather_object(found, (seen, own))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def weights_divided(rank):
    """Each rank has a part of a transformer's, and gathers the blocks that a step computes on a stream of their own."""
    case, x = CASES["wan-t2v"], rand(*CASES["wan-t2v"].latents).npu()
    inputs = {name: given.npu() for name, given in case.inputs().items()}

    def loop(model):
        how = dict(parallel=c4d.SequenceParallel(2, groups="torch"), backend="ascend")
        with c4d.accelerate(model, cache="first-block:threshold=1e9,max_skips=1,last=0", **how) as session:
            session.begin(range(4))
            out = [model(x, timestep=torch.full((1,), 900.0 - k, device="npu"), **inputs)[0] for k in range(4)]
        return out, session.report()

    whole, model = (case.build(num_attention_heads=4) for _ in range(2))
    wanted, _ = loop(whole.npu())
    c4d.memory(SimpleNamespace(components={"transformer": model}, transformer=model), "divided", backend="ascend")
    here = sum(weight.to_local().nbytes for weight in model.parameters())
    assert here <= 0.55 * sum(weight.nbytes for weight in whole.parameters())
    assert all(weight.device.type == "npu" for weight in model.parameters())
    found, report = loop(model)
    assert all(map(torch.equal, found, wanted)) and report.reused == 2


def a_rank_that_dies(rank):
    """In the middle of a step: the other one gets an exception that names it. Nobody comes back from here."""
    model, x = CASES["wan-t2v"].build(num_attention_heads=4).npu(), rand(*CASES["wan-t2v"].latents).npu()
    inputs = {name: given.npu() for name, given in CASES["wan-t2v"].inputs().items()}
    how = dict(parallel=c4d.SequenceParallel(2, groups="torch", timeout=10.0), backend="ascend")
    session = c4d.accelerate(model, cache="fora:interval=2", **how)
    if rank == 1:
        model.blocks[1].register_forward_hook(lambda *_: os._exit(0) if session.ranks.step == 1 else None)
    os.environ["C4D_SIM_TIMEOUT"] = "6"  # of HCCL's own, in the place of minutes
    with pytest.raises(c4d.LostRankError, match="rank 1 died in step 2"), session:
        session.begin(range(6))
        for k in range(6):
            model(x, timestep=torch.full((1,), 900.0 - k, device="npu"), **inputs)
    os._exit(0)


def a_rank_that_fails(rank):
    if rank == 1:
        raise ValueError("rank 1 gave up")
    ulysses(rank)


def a_rank_that_does_not_come(rank):
    if rank == 0:
        dist.all_reduce(torch.ones(3, device="npu"))


def everything(rank):
    for work in (reductions, exchanges, groups, order, ulysses, ring, numbers_that_decide, weights_divided):
        work(rank)
    a_rank_that_dies(rank)


def test_two_ranks():
    ranks.run(everything)


@pytest.mark.nightly
def test_a_rank_that_fails_ends_the_others():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="rank 1 gave up"):
        ranks.run(a_rank_that_fails)


@pytest.mark.nightly
def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setenv("C4D_SIM_TIMEOUT", "1")
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="error code is 9"):
        ranks.run(a_rank_that_does_not_come)
