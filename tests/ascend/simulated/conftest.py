"""Every test here runs on the simulated device."""

import pytest
import torch
import torch_npu  # noqa: F401 - makes the device known

from tests.ascend.sim import order
from tests.ascend.sim.device import Simulation


@pytest.fixture(autouse=True)
def simulation():
    torch.npu.set_device(0)
    torch.npu.synchronize()
    order.taken_trace()
    with Simulation() as running, torch.no_grad():
        yield running
    assert not running.unfit, "the device met numbers that it does not compute with"


@pytest.fixture
def trace(simulation):
    """The kernels launched since the last call of it."""
    return order.taken_trace
