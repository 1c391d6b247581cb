"""Ranks over gloo, with the real xfuser and yunchang: what each function finds wrong, it says on its rank.

``python -m tests.xfuser.ranks`` imports everything once, and forks the ranks of each job from there.
"""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

import c4d
from c4d.backends.reference import Reference
from c4d.parallel import groups, mesh, xfuser
from c4d.parallel.agree import DisagreementError
from c4d.parallel.attention import Kernels, Text, sp_attention
from c4d.parallel.collectives import gather
from c4d.parallel.degrees import Degrees, SequenceParallel, possible
from tests.forked import ranks
from tests.tiny import CASES, rand
from tests.xfuser import stub

BACKEND = Reference()
KERNELS = Kernels.of(BACKEND)
FIELDS = ("ulysses", "ring", "sequence", "cfg", "request")
SHORT, LATER = 40.0, 50.0  # seconds: timeouts that are nobody's default
# Largest differences of attention outputs of about 1: the order of fp32 sums; one rounding of each result in bf16.
NEAR = {torch.float32: 1e-6, torch.bfloat16: 2.0**-6}


def asked(degrees: Degrees, timeout: float = SHORT, groups: str = "xfuser") -> SequenceParallel:
    return SequenceParallel(*degrees, timeout=timeout, groups=groups)


def timeout(handle) -> float:
    return handle._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def everything() -> set:
    return set(dist.distributed_c10d._world.pg_map)


def same_groups(degrees: Degrees, rank: int) -> mesh.Mesh:
    """What xfuser makes is what torch.distributed makes: members, places, and who answers."""
    before = everything()
    theirs = groups.make(asked(degrees), degrees, rank, BACKEND)
    assert theirs.made_by == "xfuser 0.7.0"
    new = everything() - before
    assert len(new) > 10 and {timeout(handle) for handle in new} == {SHORT}, "every group, also those it keeps"
    ours = mesh.build(degrees, rank, BACKEND.group, SHORT)
    for name in FIELDS:
        one, other = getattr(theirs, name), getattr(ours, name)
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            assert one[1:] == other[1:], name
            members = dist.get_process_group_ranks(one.handle)
            assert members == dist.get_process_group_ranks(other.handle), name
            assert gather(torch.tensor([rank]), one).flatten().tolist() == members, name
    return theirs


def set_up_already(theirs: mesh.Mesh, degrees: Degrees, rank: int) -> None:
    """Groups that are there are taken, with the timeout of now; never for other degrees."""
    again = groups.make(asked(degrees, LATER, "auto"), degrees, rank, BACKEND)
    handles = [(getattr(theirs, name).handle, getattr(again, name).handle) for name in FIELDS if getattr(again, name)]
    assert handles and all(one is other and timeout(other) == LATER for one, other in handles)
    other = next(each for each in possible(degrees.world, 8, 2) if each != degrees)
    with pytest.raises(RuntimeError, match=f"set up in this process with {degrees}, and these groups are {other}"):
        groups.make(asked(other), other, rank, BACKEND)
    fallen = groups.make(asked(other, groups="auto"), other, rank, BACKEND)
    assert fallen.degrees == other and fallen.made_by.startswith("torch.distributed (its parallel state was set up")
    assert {timeout(getattr(fallen, name).handle) for name in FIELDS if getattr(fallen, name)} == {SHORT}


def attention(theirs: mesh.Mesh, degrees: Degrees) -> None:
    """Ours, xfuser's USP and yunchang's LongContextAttention agree where theirs are right, and with one process."""
    from xfuser.core.distributed import runtime_state
    from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY
    from xfuser.model_executor.layers.usp import USP
    from yunchang import LongContextAttention
    from yunchang.kernels import AttnType

    def registered(q, k, v, dropout_p, is_causal, attention_kwargs):
        out, lse = KERNELS.lse(*(x.transpose(1, 2) for x in (q, k, v)), None)
        return out.transpose(1, 2), lse

    def processor(q, k, v, **others):
        return KERNELS.lse(q, k, v, None)

    ATTENTION_FUNCTION_REGISTRY["c4d"] = registered
    settings = SimpleNamespace(use_spargeattn_head_balance=False)
    runtime_state._RUNTIME = SimpleNamespace(attention_backend="c4d", runtime_config=settings, fp8_comms=None)
    usp = partial(USP, backend="c4d")
    for dtype, near in NEAR.items():
        source = torch.Generator().manual_seed(0)
        qkv = torch.randn(3, 2, 64, 8, 16, generator=source).to(dtype)
        words = torch.randn(3, 2, 5, 8, 16, generator=source).to(dtype)
        mine = slice(64 // degrees.sequence * theirs.position, 64 // degrees.sequence * (theirs.position + 1))
        tokens = qkv[:, :, mine].unbind(0)

        def close(of: str, out, expected, near=near):
            error = (out.float() - expected.float()).abs().max().item()
            assert out.dtype == expected.dtype and error <= near, f"{of}, {expected.dtype}: {error:.1e}"

        ours, _ = sp_attention(tokens, 64, KERNELS, theirs.ulysses, theirs.ring)
        close("ours", ours, KERNELS.plain(*qkv.unbind(0), None)[:, mine])
        close("xfuser", usp(*(x.transpose(1, 2) for x in tokens)).transpose(1, 2), ours)
        close("yunchang", LongContextAttention(attn_type=None, attn_processor=processor)(*tokens), ours)

        ours, said = sp_attention(tokens, 64, KERNELS, theirs.ulysses, theirs.ring, Text(words.unbind(0)))
        q, k, v = (x.transpose(1, 2) for x in words.unbind(0))
        joint = dict(joint_query=q, joint_key=k, joint_value=v, joint_strategy="rear")
        out = usp(*(x.transpose(1, 2) for x in tokens), **joint).transpose(1, 2)
        close("xfuser with text", out, torch.cat((ours, said), 1))

        # And where theirs are not, as docs/parallel.md says: a newer one may be.
        if theirs.ring is not None and dtype == torch.float32:
            wrong = LongContextAttention(attn_type=AttnType.TORCH_MATH)(*tokens)
            assert (wrong - sp_attention(tokens, 64, KERNELS, theirs.ulysses, theirs.ring)[0]).abs().max() > 0.1
        if theirs.ulysses is not None:
            with pytest.raises(AssertionError, match="divisible"):
                usp(*(x[:, :, :3].transpose(1, 2) for x in tokens))


def whole_model(degrees: Degrees) -> None:
    """c4d.sharded on xfuser's groups, and what it says of them."""
    case = CASES["wan-t2v"]
    model, x = case.build(), rand(*case.latents, seed=3)
    alone = case.run(model, x, 500.0)
    with c4d.sharded(model, asked(degrees)) as session:
        assert (case.run(model, x, 500.0) - alone).abs().max() < 1e-5
        assert session.said().startswith(f"{degrees}; groups by xfuser 0.7.0")


def dropped(degrees: Degrees, rank: int) -> None:
    """xfuser that finds no yunchang makes ulysses and ring 1 and says nothing; we do."""
    from xfuser.core.distributed import group_coordinator, parallel_state

    with pytest.MonkeyPatch.context() as patch:
        for module in (parallel_state, group_coordinator):
            patch.setattr(module, "HAS_LONG_CTX_ATTN", False)
        with pytest.raises(RuntimeError, match=r"rank 0.*finds no yunchang"):
            groups.make(asked(degrees), degrees, rank, BACKEND)
        with pytest.raises(RuntimeError, match=f"asked for {degrees} and set up one rank alone without a word"):
            xfuser.build(degrees, rank, BACKEND, SHORT)
        parallel_state.destroy_model_parallel()


def moved(degrees: Degrees, rank: int) -> None:
    """An xfuser that numbers ranks in another order is found out, too."""
    with pytest.MonkeyPatch.context() as patch:
        turned = {name: [ranks[::-1] for ranks in each] for name, each in mesh.layout(degrees).items()}
        patch.setattr(xfuser, "layout", lambda degrees: turned)
        with pytest.raises(RuntimeError, match=f"put rank {rank} into the"):
            xfuser.build(degrees, rank, BACKEND, SHORT)
    end()


def told_apart(degrees: Degrees, rank: int) -> None:
    """Ranks that would make other groups than the rest are told before they wait for each other."""
    last = rank == degrees.world - 1
    with pytest.raises(DisagreementError, match=f"ranks 0 and {degrees.world - 1} of this job were given different"):
        groups.make(asked(degrees, SHORT + last), degrees, rank, BACKEND)
    with pytest.MonkeyPatch.context() as patch:
        if last:
            patch.setattr(xfuser, "VERSION", "0.8.0")
        with pytest.raises(RuntimeError, match=f"rank {degrees.world - 1}.: xfuser 0.7.0 is installed; c4d knows"):
            groups.make(asked(degrees), degrees, rank, BACKEND)
        made = groups.make(asked(degrees, groups="auto"), degrees, rank, BACKEND)
        assert made.made_by == "torch.distributed (xfuser 0.7.0 is installed; c4d knows the groups of 0.8.0)"
    assert groups.make(asked(degrees, groups="torch"), degrees, rank, BACKEND).made_by == "torch.distributed"


def end() -> None:
    from xfuser.core.distributed import parallel_state

    parallel_state.destroy_model_parallel()


def job(world: int, rank: int) -> None:
    every = possible(world, 8, 2)
    for degrees in every:
        theirs = same_groups(degrees, rank)
        if degrees.sequence == world:
            set_up_already(theirs, degrees, rank)
            attention(theirs, degrees)
            if degrees.ulysses <= 2:  # its heads
                whole_model(degrees)
        end()
        if rank == 0:
            print(f"{world} ranks: {degrees}: as by torch.distributed")
    shared = next(each for each in every if each.sequence == world)
    for part in (dropped, moved, told_apart):
        part(shared, rank)


def plain(world: int, rank: int) -> None:
    """Where xfuser cannot be imported, it is not used, and the reason is xfuser's own."""
    degrees = Degrees(2, 1)
    assert "cannot be imported here: NotImplementedError: No Accelerators" in xfuser.missing(degrees, BACKEND)


if __name__ == "__main__":
    torch.set_num_threads(1)  # no thread may live before a fork
    torch.set_grad_enabled(False)
    failed = ranks(1, plain)
    stub.load("xfuser.core.distributed.parallel_state", "xfuser.model_executor.layers.usp")
    with pytest.raises(ImportError, match="update_npu_out"):  # why attention is ours (docs/parallel.md)
        stub.load("xfuser.core.long_ctx_attention.ring")
    failed += sum(ranks(world, job) for world in (2, 4))
    sys.exit(failed)
