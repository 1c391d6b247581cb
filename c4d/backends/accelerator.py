"""What every accelerator does the same way, through ``torch.accelerator``: memory, side streams, waiting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from c4d.backends.base import Memory
from c4d.backends.reference import Reference
from c4d.core.types import Fetching, Parked


class _Copy(Fetching):
    """A copy to the device that ``side`` makes, into memory that the allocator gave to the stream ``owner``."""

    def __init__(self, tensor: Tensor, side: torch.Stream, owner: torch.Stream) -> None:
        super().__init__(tensor)
        self._side, self._owner, self._done, self._waited = side, owner, side.record_event(), False

    def wait(self) -> Tensor:
        current = torch.accelerator.current_stream(self.tensor.device)
        current.wait_event(self._done)
        self._waited = True
        if current != self._owner:
            self.tensor.record_stream(current)
        return self.tensor

    def __del__(self) -> None:
        # Nobody has waited: its memory is not given to others before the copy is done. A copy that was waited for is
        # not told so, for then its memory would come back only when the host sees that the device got there.
        if not self._waited:
            self.tensor.record_stream(self._side)


class Accelerator(Reference):
    """The reference primitives on a device that torch calls its accelerator.

    Memory figures are those of its allocator, on the current device. ``allocator``: the variables that set up this
    allocator, of which one may be given, the preferred one first; ``waiting``: what makes the host wait at every call,
    by variable.
    """

    resource = "GPU"
    asynchronous = True
    default_dtype = torch.bfloat16
    allocator: tuple[str, ...] = ("PYTORCH_ALLOC_CONF",)
    waiting: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._side: dict[torch.device, torch.Stream] = {}  # a stream of copies for each device that was used

    def missing(self) -> str | None:
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None:
            return "torch finds no accelerator"
        return None if found.type == self.device_type else f"torch's accelerator here is {found.type}"

    def advice(self) -> Sequence[str]:
        given = {name: os.environ[name] for name in self.allocator if os.environ.get(name)}
        said = [
            f"unset {name}={value}: it makes the host wait for every call"
            for name, value in self.waiting.items()
            if os.environ.get(name) == value
        ]
        if len(given) > 1:
            said.append(f"set one of {' and '.join(given)}, not both")
        if not any(word in value for value in given.values() for word in ("expandable_segments", "max_split_size_mb")):
            name = next(iter(given), self.allocator[0])
            said.append(
                f"set {name}={','.join([*given.values(), 'expandable_segments:True'])} before the process starts: "
                "memory in pieces of many sizes is then not lost between them"
            )
        return said

    def synchronize(self) -> None:
        torch.accelerator.synchronize()

    # The device's own module has these; torch.accelerator only for allocators that say so, as torch_npu's from 2.13 on.

    def memory(self) -> Memory:
        device = torch.get_device_module(self.device_type)
        free, total = device.mem_get_info()
        return Memory(device.memory_allocated(), device.memory_reserved(), device.max_memory_allocated(), free, total)

    def reset_peak(self) -> None:
        torch.get_device_module(self.device_type).reset_peak_memory_stats()

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

    def begin_fetch(self, parked: Parked) -> Fetching:
        if parked.device.type != self.device_type:
            return super().begin_fetch(parked)
        side, current = self._stream(parked.device), torch.accelerator.current_stream(parked.device)
        # After the work before it, so that the allocator can give it memory which that work has freed.
        x = torch.empty(parked.tensor.shape, dtype=parked.tensor.dtype, device=parked.device)
        side.wait_stream(current)
        with side:  # one stream carries all copies: this one comes after its own offload
            x.copy_(parked.tensor, non_blocking=True)
        return _Copy(x, side, current)

    def _stream(self, device: torch.device) -> torch.Stream:
        if device not in self._side:
            self._side[device] = torch.Stream(device)
        return self._side[device]
