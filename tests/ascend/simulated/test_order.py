"""A read that does not wait for what it reads is an error here, though every piece of work is done at once."""

from __future__ import annotations

import pytest
import torch

from tests.ascend.sim.order import OutOfOrder


def pair():
    return torch.Stream("npu"), torch.accelerator.current_stream()


def test_a_copy_to_the_host_has_to_be_waited_for():
    x, host = torch.arange(8.0, device="npu"), torch.empty(8, pin_memory=True)
    host.copy_(x, non_blocking=True)
    with pytest.raises(OutOfOrder, match="the host reads"):
        host.sum()
    torch.npu.synchronize()
    assert host.sum() == 28


def test_also_one_that_torch_pins_itself():
    host = torch.arange(8.0, device="npu").to("cpu", non_blocking=True)
    with pytest.raises(OutOfOrder, match="the host reads"):
        host + 1
    torch.npu.current_stream().synchronize()
    assert (host + 1)[-1] == 8


def test_pinned_memory_is_not_written_while_it_is_copied():
    host = torch.ones(8).pin_memory()
    x = host.to("npu", non_blocking=True)
    with pytest.raises(OutOfOrder, match="the host writes"):
        host.zero_()
    event = torch.npu.Event()
    event.record()
    event.synchronize()
    host.zero_()
    assert x.sum().item() == 8


@pytest.mark.parametrize("waits", [False, True])
def test_a_side_stream_waits_for_what_it_copies(waits):
    side, current = pair()
    x, host = torch.ones(8, device="npu") * 2, torch.empty(8, pin_memory=True)
    if waits:
        side.wait_stream(current)
    with side:
        if not waits:
            with pytest.raises(OutOfOrder, match="copy of stream"):
                host.copy_(x, non_blocking=True)
            return
        host.copy_(x, non_blocking=True)
    side.synchronize()
    assert host.sum() == 16


@pytest.mark.parametrize("how", ["never", "too early", "stream", "event"])
def test_a_consumer_waits_for_the_side_stream(how):
    side, current = pair()
    x, host = torch.empty(8, device="npu"), torch.ones(8).pin_memory()
    side.wait_stream(current)
    event = torch.Event("npu")
    with side:
        if how == "too early":
            event.record(side)
        x.copy_(host, non_blocking=True)
        if how == "event":
            event.record(side)
    if how == "stream":
        current.wait_stream(side)
    elif how != "never":
        current.wait_event(event)
    if how in ("never", "too early"):
        with pytest.raises(OutOfOrder, match="reads"):
            x * 2
    else:
        assert (x * 2).sum().item() == 16


def test_memory_is_not_given_to_others_while_it_is_read():
    """record_stream is what tells the allocator: without it the next tensor gets the memory at once."""
    side, current = pair()
    for told in (True, False):
        x, host = torch.ones(2**20, device="npu"), torch.empty(2**20, pin_memory=True)
        side.wait_stream(current)
        with side:
            host.copy_(x, non_blocking=True)
        if told:
            x.record_stream(side)
        at = x.data_ptr()
        del x
        other = torch.empty(2**20, device="npu")
        assert (other.data_ptr() == at) != told
        if told:
            other.fill_(3)
        else:
            with pytest.raises(OutOfOrder, match="writes"):
                other.fill_(3)
        torch.npu.synchronize()
