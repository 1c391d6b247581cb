"""What the backend is on an NPU, its memory, and its copies beside the work; its primitives: tests/backends."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from c4d.backends import select
from tests.ascend.sim.order import OutOfOrder

MIB = 2**20


@pytest.fixture
def backend():
    return select("ascend")


def rand(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_it_is_what_auto_takes(backend):
    assert (select().name, backend.device_type, backend.collectives) == ("ascend", "npu", "hccl")
    assert backend.hardware().startswith("Ascend910B3, CANN ") and backend.default_dtype == torch.bfloat16


def test_memory_figures(backend):
    torch.npu.empty_cache()
    backend.reset_peak()
    before = backend.memory()
    x = torch.empty(8 * MIB, device="npu")
    held = backend.memory()
    del x
    after = backend.memory()
    assert held.allocated - before.allocated >= 32 * MIB and after.allocated == before.allocated
    assert after.peak >= held.allocated and held.total == 64 * 1024 * MIB and held.free <= held.total - held.reserved
    backend.reset_peak()
    assert backend.memory().peak == before.allocated


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offload_gives_memory_back_and_fetch_brings_it(backend, dtype):
    here = rand(2, 3, 2**18, dtype=dtype)
    x = here.npu()
    full = backend.memory().allocated
    parked = backend.offload(x)
    assert parked.tensor.is_pinned() and parked.device == torch.device("npu", 0)
    del x
    backend.synchronize()
    torch.empty(1, device="npu")  # the allocator looks now what streams have done
    assert full - backend.memory().allocated >= here.nbytes - 1024
    there = backend.fetch(parked)
    assert torch.equal((there * 2).cpu(), here * 2) and backend.memory().allocated >= full


def test_offload_of_strides_and_of_the_host(backend):
    here = rand(4, 6)
    assert torch.equal(backend.fetch(backend.offload(here.npu().mT)).cpu(), here.mT)
    assert torch.equal(backend.fetch(backend.offload(here)), here)


def test_the_host_may_not_read_what_is_being_parked(backend):
    parked = backend.offload(torch.ones(64, device="npu"))
    with pytest.raises(OutOfOrder):
        parked.tensor.sum()
    backend.synchronize()
    assert parked.tensor.sum() == 64


@pytest.mark.parametrize("forgets", ["nothing", "offload waits", "fetch begins", "fetch waits", "record_stream"])
def test_each_wait_of_the_backend_is_needed(backend, forgets, monkeypatch):
    """The check sees an adapter that forgets one of them."""
    side = backend._stream(torch.device("npu", 0))

    def forgetting(what, call, *args):
        with monkeypatch.context() as patch:
            if forgets == what:  # a stream that waits for itself waits for nothing
                patch.setattr(torch.accelerator, "current_stream", lambda device: side)
            return call(*args)

    def steps():
        x = torch.ones(2**18, device="npu")
        parked = forgetting("offload waits", backend.offload, x)
        del x
        torch.ones(2**18, device="npu")  # whose memory is free again, and written to before that
        fetching = forgetting("fetch begins", backend.begin_fetch, parked)
        assert (forgetting("fetch waits", fetching.wait) + 1).sum().item() == 2**19

    if forgets == "record_stream":
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
    if forgets == "nothing":
        return steps()
    with pytest.raises(OutOfOrder):
        steps()


@pytest.mark.parametrize("forgets", [False, True])
def test_a_fetch_that_nobody_waits_for_keeps_its_memory_until_it_is_done(backend, forgets, monkeypatch):
    parked = backend.offload(torch.ones(2**18, device="npu"))
    fetching = backend.begin_fetch(parked)
    at = fetching.tensor.data_ptr()
    with monkeypatch.context() as patch:
        if forgets:
            patch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
        del fetching
    other = torch.empty(2**18, device="npu")
    assert (other.data_ptr() == at) == forgets
    with pytest.raises(OutOfOrder) if forgets else nullcontext():
        other.zero_()


def test_a_fetch_that_was_waited_for_gives_its_memory_back_at_once(backend):
    """In the order of the stream: the next one gets it, without the host having waited."""
    parked = backend.offload(torch.ones(2**18, device="npu"))
    fetching = backend.begin_fetch(parked)
    total, at = fetching.wait() * 2, fetching.tensor.data_ptr()
    del fetching
    again = backend.begin_fetch(parked)
    assert again.tensor.data_ptr() == at and torch.equal(total, again.wait() * 2)


def test_what_wants_a_gradient_goes_to_what_has_one(backend, simulation):
    with torch.enable_grad():
        x = rand(2, 9, 4, 16, dtype=torch.bfloat16).npu().requires_grad_()
        angles = rand(9, 8).npu()
        attended = backend.attention(x, x, x)
        normed = backend.rms_norm(x, None, eps=1e-6)
        turned = backend.rotary(x, angles.cos(), angles.sin(), interleaved=True)
    fused = {name.removeprefix("npu::") for name in simulation.calls if name.startswith("npu::")}
    assert fused == {"npu_fusion_attention"} and "Attention" in type(attended.grad_fn).__name__
    assert normed.requires_grad and turned.requires_grad
    simulation.calls.clear()
    backend.attention(x, x, x), backend.rms_norm(x, None, eps=1e-6)  # no gradient is wanted here
    assert {"npu::npu_fused_infer_attention_score", "npu::npu_rms_norm"} <= set(simulation.calls)
