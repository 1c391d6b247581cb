"""What every accelerator does the same way, on an NPU: memory, copies beside the work, primitives in plain torch."""

from __future__ import annotations

import pytest
import torch

from c4d.backends.accelerator import Accelerator
from c4d.backends.reference import Reference
from tests.ascend.sim.order import OutOfOrder

MIB = 2**20


class Npu(Accelerator):
    name, device_type, collectives = "npu", "npu", "hccl"


@pytest.fixture
def backend():
    made = Npu()
    assert made.missing() is None
    return made


def rand(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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


@pytest.mark.parametrize("forgets", ["nothing", "offload waits", "fetch waits", "record_stream"])
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
        torch.ones(2**18, device="npu")
        assert (forgetting("fetch waits", backend.fetch, parked) + 1).sum().item() == 2**19

    if forgets == "record_stream":
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
    if forgets == "nothing":
        return steps()
    with pytest.raises(OutOfOrder):
        steps()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_primitives_equal_those_of_the_cpu(backend, dtype):
    cpu = Reference()
    x, k, v = (rand(2, 9, 4, 16, dtype=dtype, seed=s) for s in range(3))
    weight, angle, mask = rand(16, dtype=dtype), rand(9, 8), rand(2, 1, 1, 9) > -0.5
    mask[..., 0] = True
    cases = {
        "lincomb": (lambda b, x, k, v: b.lincomb([x, k, v], [1.0, 0.5, -2.0]), (x, k, v)),
        "lincomb by a tensor": (lambda b, w, x, k: b.lincomb([x, k], w), (torch.tensor([0.5, 3.0]), x, k)),
        "change": (lambda b, x, k: b.change(x, k), (x, k)),
        "rms_norm": (lambda b, x, w: b.rms_norm(x, w, eps=1e-6), (x, weight)),
        "rotary": (lambda b, x, c, s: b.rotary(x, c, s, interleaved=True, tokens=None), (x, angle.cos(), angle.sin())),
        "norm_rotary": (
            lambda b, x, w, c, s: b.norm_rotary(x, w, c, s, eps=1e-6, interleaved=False),
            (x, weight, angle.cos(), angle.sin()),
        ),
        "attention": (lambda b, x, k, v, m: b.attention(x, k, v, mask=m), (x, k, v, mask)),
        "attention_lse": (lambda b, x, k, v: b.attention_lse(x, k, v, causal=True), (x, k, v)),
    }
    for name, (call, tensors) in cases.items():
        here, there = call(cpu, *tensors), call(backend, *(t.npu() for t in tensors))
        here, there = ([r] if isinstance(r, torch.Tensor) else list(r) for r in (here, there))
        for a, b in zip(here, there, strict=True):
            assert b.device.type == "npu", name
            torch.testing.assert_close(b.cpu(), a, rtol=1e-6, atol=1e-6, msg=lambda said, name=name: f"{name}: {said}")
