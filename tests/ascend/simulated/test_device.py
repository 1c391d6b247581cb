"""The device as torch and torch_npu show it: memory with its real limits, tensors, pinned memory, streams, events."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
import torch

MIB = 2**20


def test_it_is_there():
    assert torch.npu.is_available() and torch.npu.device_count() == 2
    assert torch.accelerator.current_accelerator().type == "npu"
    found = torch.npu.get_device_properties(0)
    assert (found.name, found.total_memory) == ("Ascend910B3", 64 * 1024 * MIB)
    assert torch.npu.is_bf16_supported()


def test_memory_is_counted():
    gc.collect()
    torch.npu.empty_cache()
    before, (free, total) = torch.npu.memory_allocated(), torch.npu.mem_get_info()
    x = torch.empty(30 * MIB, dtype=torch.uint8, device="npu")
    assert 0 <= torch.npu.memory_allocated() - before - x.nbytes <= 512  # the allocator pads
    assert free - torch.npu.mem_get_info()[0] >= x.nbytes and total == 64 * 1024 * MIB
    torch.npu.reset_peak_memory_stats()
    y = torch.empty_like(x)
    del x, y
    assert torch.npu.memory_allocated() == before and torch.npu.max_memory_allocated() - before >= 60 * MIB
    torch.npu.empty_cache()
    assert torch.npu.mem_get_info()[0] == free


def test_memory_runs_out_and_comes_back():
    with pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
        torch.empty(80 * 1024 * MIB, dtype=torch.uint8, device="npu")
    held = [torch.empty(20 * 1024 * MIB, dtype=torch.uint8, device="npu") for _ in range(3)]
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(20 * 1024 * MIB, dtype=torch.uint8, device="npu")
    held.pop()
    again = torch.empty(20 * 1024 * MIB, dtype=torch.uint8, device="npu")
    assert again[:4].fill_(3).tolist() == [3, 3, 3, 3]


def test_a_result_that_does_not_fit():
    x = torch.zeros(1, device="npu").expand(40 * MIB)
    torch.npu.empty_cache()
    torch.npu.set_per_process_memory_fraction(0.002)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            x + 1
    finally:
        torch.npu.set_per_process_memory_fraction(1.0)
    assert (torch.ones(2, device="npu") + 1).tolist() == [2, 2]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float64]
)
def test_round_trip(simulation, dtype):
    x = torch.randn(3, 4, 5).mul(3).to(dtype)
    for there in (x.npu(), x.mT.npu().mT, x.to("npu:0", non_blocking=True), x.npu()[:, 1:, ::2]):
        assert there.device == torch.device("npu", 0)
        assert torch.equal(there.cpu(), x if there.shape == x.shape else x[:, 1:, ::2])
    assert bool(simulation.unfit) == (dtype == torch.float64)
    simulation.unfit.clear()


def test_what_the_device_does_not_compute_with_is_seen(simulation):
    x = torch.ones(4, device="npu")
    torch.view_as_complex(x.view(2, 2))
    x * torch.tensor(2.0, dtype=torch.float64)  # a number of the host's: it stays fp32
    torch.linspace(0, 1, 3, device="npu", dtype=torch.float64)
    assert simulation.unfit == ["aten::view_as_complex torch.complex64", "aten::linspace torch.float64"]
    simulation.unfit.clear()


def test_who_waits_for_the_device_is_counted(simulation):
    x, host = torch.arange(4.0, device="npu"), torch.empty(4, pin_memory=True)
    host.copy_(x, non_blocking=True)
    torch.npu.synchronize()
    assert simulation.waits == 0
    for n, read in enumerate((x.sum().item, x.tolist, x.cpu, lambda: bool((x > 2).any()), x.nonzero), 1):
        read()
        assert simulation.waits == n


def test_views_share_memory():
    x = torch.zeros(4, 6, device="npu")
    x[1:3, ::2] += 5
    x.view(2, 12)[0, 0] = 7
    x.reshape(-1)[1] = 8  # a view, as on any device
    x.flatten().view(3, 8)[2].copy_(torch.arange(8.0))
    here = torch.zeros(4, 6)
    here[1:3, ::2] += 5
    here.view(-1)[:2] = torch.tensor([7.0, 8.0])
    here.view(3, 8)[2] = torch.arange(8.0)
    assert torch.equal(x.cpu(), here) and x.sum().item() == here.sum().item()


def test_results_of_their_own():
    x = torch.arange(6.0, device="npu")
    y, z = x.clone(), x.float().contiguous()
    z.add_(1)  # x itself: nothing had to be made
    y.mul_(2)
    assert x.tolist() == [1, 2, 3, 4, 5, 6] and y.tolist() == [0, 2, 4, 6, 8, 10]
    assert torch.add(x, 1, out=y) is y and y[-1].item() == 7


def test_modules_autocast_and_numbers_drawn():
    linear, x = torch.nn.Linear(4, 5), torch.randn(3, 4)
    wanted = linear(x)
    there = linear.to("npu")
    assert torch.equal(there(x.npu()).cpu(), wanted)
    with torch.autocast("npu", dtype=torch.bfloat16):
        assert there(x.npu()).dtype == torch.bfloat16
    draws = [torch.randn(3, generator=torch.Generator("npu").manual_seed(s), device="npu").cpu() for s in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_pinned_memory():
    x = torch.arange(8.0).pin_memory()
    assert x.is_pinned() and not torch.arange(8.0).is_pinned()
    there = x.to("npu", non_blocking=True)
    torch.npu.synchronize()
    assert torch.equal(there.cpu(), x)


def test_streams_and_events():
    side, before, after = torch.npu.Stream(), torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    with torch.npu.stream(side):
        assert torch.npu.current_stream() == side
        before.record()
        x = torch.ones(4, device="npu") * 2
        after.record()
    assert torch.npu.current_stream() != side
    assert not after.query()  # nobody waited: a device may be slow
    after.synchronize()
    assert after.query() and before.elapsed_time(after) >= 0
    assert x.tolist() == [2, 2, 2, 2]


def test_expandable_segments():
    """What is recommended against fragmentation; read when the allocator starts, so in a process of its own."""
    code = """
import torch, torch_npu
for size in (30, 50):
    x = torch.empty(size * 2**20, dtype=torch.uint8, device="npu")
    del x
assert 50 * 2**20 <= torch.npu.memory_reserved() < 80 * 2**20, torch.npu.memory_reserved()  # the first one grew
torch.npu.empty_cache()
assert torch.npu.memory_reserved() == 0
try:
    torch.empty(80 * 2**30, dtype=torch.uint8, device="npu")
except torch.OutOfMemoryError:
    print("ran out")
"""
    environment = os.environ | {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("ran out\n"), done.stderr
