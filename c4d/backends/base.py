"""What a backend is: the device primitives that c4d asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from c4d.core.types import Parked


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot run here; the message says what is missing."""


@runtime_checkable
class Backend(Protocol):
    """``name`` as in ``--backend``, ``device_type`` as in ``torch.device``, ``collectives`` as torch.distributed says.

    ``default_dtype`` is what weights are loaded in unless the user asks otherwise; ``verified`` says in plain words
    where this backend was run; ``asynchronous`` that calls return before the device has done their work.
    """

    name: str
    device_type: str
    collectives: str
    default_dtype: torch.dtype
    asynchronous: bool
    verified: str

    def missing(self) -> str | None:
        """What keeps this backend from running here, in words; None if nothing does."""
        ...

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """sum_k weights[k] * features[k] in fp32 (fp64 for fp64 features), in the dtype of ``features[0]``.

        ``features``: K tensors of one shape on one device; ``weights``: K numbers on the host, and how they reach the
        device is the backend's affair. The result is a new tensor.
        """
        ...

    def change(self, now: Tensor, before: Tensor) -> Tensor:
        """[2] fp32: sum|now - before| and sum|before|, for two tensors of one shape."""
        ...

    def offload(self, x: Tensor) -> Parked:
        """Moves a tensor to the host."""
        ...

    def fetch(self, parked: Parked) -> Tensor:
        """Brings it back to where it came from."""
        ...

    def synchronize(self) -> None:
        """Waits for the device, so that a clock read afterwards is true."""
        ...

    def reset_peak(self) -> None:
        """Starts a new measurement of :meth:`peak_bytes`."""
        ...

    def peak_bytes(self) -> int:
        """Most bytes held on the device since the last :meth:`reset_peak` (on the CPU: the process's peak size)."""
        ...
