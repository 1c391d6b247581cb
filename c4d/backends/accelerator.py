"""What every accelerator does the same way, through ``torch.accelerator``: memory, side streams, waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from c4d.backends.base import Memory
from c4d.backends.reference import Reference
from c4d.core.types import Parked


class Accelerator(Reference):
    """The reference primitives on a device that torch calls its accelerator.

    Memory figures are those of its allocator, on the current device.
    """

    asynchronous = True
    default_dtype = torch.bfloat16

    def __init__(self) -> None:
        self._side: dict[torch.device, torch.Stream] = {}  # a stream of copies for each device that was used

    def missing(self) -> str | None:
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None:
            return "torch finds no accelerator"
        return None if found.type == self.device_type else f"torch's accelerator here is {found.type}"

    def synchronize(self) -> None:
        torch.accelerator.synchronize()

    def memory(self) -> Memory:
        device = torch.accelerator
        free, total = device.get_memory_info()
        return Memory(device.memory_allocated(), device.memory_reserved(), device.max_memory_allocated(), free, total)

    def reset_peak(self) -> None:
        torch.accelerator.reset_peak_memory_stats()

    def offload(self, x: Tensor) -> Parked:
        if x.device.type != self.device_type:
            return super().offload(x)
        x, side = x.detach(), self._stream(x.device)
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        side.wait_stream(torch.accelerator.current_stream(x.device))
        with side:
            host.copy_(x, non_blocking=True)
        x.record_stream(side)  # its memory is not given to others before the copy is done
        return Parked(host, x.device)

    def fetch(self, parked: Parked) -> Tensor:
        if parked.device.type != self.device_type:
            return super().fetch(parked)
        side, current = self._stream(parked.device), torch.accelerator.current_stream(parked.device)
        # Into memory that the work before it has given back: what is parked is more than the device is to hold.
        x = torch.empty(parked.tensor.shape, dtype=parked.tensor.dtype, device=parked.device)
        side.wait_stream(current)
        with side:  # one stream carries all copies: this one comes after its own offload
            x.copy_(parked.tensor, non_blocking=True)
        current.wait_stream(side)
        return x

    def _stream(self, device: torch.device) -> torch.Stream:
        if device not in self._side:
            self._side[device] = torch.Stream(device)
        return self._side[device]
