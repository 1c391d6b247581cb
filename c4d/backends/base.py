"""What a backend is: the device primitives that c4d asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from c4d.backends.kernels import Kernel
from c4d.core.types import Fetching, Parked


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot run here; the message says what is missing."""


class Memory(NamedTuple):
    """Bytes on the device; on the host ``allocated`` and ``reserved`` are what the process holds.

    ``allocated`` by tensors, ``reserved`` by the allocator for them, ``peak`` the most that was allocated since the
    last ``reset_peak`` (on the host: since the process began), ``free`` and ``total`` of the device.
    """

    allocated: int
    reserved: int
    peak: int
    free: int
    total: int


@runtime_checkable
class Backend(Protocol):
    """``name`` as in ``--backend``, ``device_type`` as in ``torch.device``, ``collectives`` as torch.distributed says,
    ``resource`` as Ray calls such a device.

    ``default_dtype`` is what weights are loaded in unless the user asks otherwise; ``dtypes`` those of the features
    and tensors that every primitive takes; ``asynchronous`` says that calls return before the device has done their
    work; ``verified`` in plain words where this backend was run. ``attention_kernels`` stand in the order in which
    "auto" tries them.

    Tensors of attention, norms and rotary embeddings are [batch, tokens, heads, head size]; every primitive computes
    in fp32 (fp64 for fp64 inputs) and rounds once, to the dtype of its first tensor, unless a lossy kernel was named.
    What a backend cannot do is an :class:`~c4d.backends.kernels.UnsupportedError` that names the limit, raised before
    the device is touched.
    """

    name: str
    device_type: str
    collectives: str
    resource: str
    default_dtype: torch.dtype
    dtypes: tuple[torch.dtype, ...]
    asynchronous: bool
    verified: str
    attention_kernels: Mapping[str, Kernel]

    def missing(self) -> str | None:
        """What keeps this backend from running here, in words; None if nothing does."""
        ...

    def hardware(self) -> str:
        """The device in words, such as "NVIDIA H200"; only where nothing is missing."""
        ...

    def advice(self) -> Sequence[str]:
        """What to change in the environment of the process, a sentence each; empty if there is nothing to gain."""
        ...

    # -- attention

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
        causal: bool = False,
        kernel: str = "auto",
    ) -> Tensor:
        """softmax(scale · q kᵀ + mask) v, [B, Sq, H, D], for q [B, Sq, H, D] and k, v [B, Sk, H, D].

        ``mask``: bool (True: attends) or additive, broadcastable to [B, H, Sq, Sk]; ``scale``: None is D^-1/2;
        ``causal``: a query sees keys up to its own place (Sq == Sk, no mask beside it). A query that sees no key gives
        zeros. ``kernel``: a name of ``attention_kernels``, or "auto": the first one that is exact and takes this call.
        """
        ...

    def attention_lse(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
        causal: bool = False,
        kernel: str = "auto",
    ) -> tuple[Tensor, Tensor]:
        """:meth:`attention`, and the natural logarithm of each query's softmax denominator, [B, H, Sq] fp32.

        A query that sees no key has -inf there. With it partial results over parts of the keys merge exactly.
        """
        ...

    # -- norm and rotary embedding

    def rms_norm(self, x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
        """x / sqrt(mean(x²) + eps) · weight for x [B, S, H, D].

        ``weight`` [D] (or None) norms each head, [H · D] all heads of a token together.
        """
        ...

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, tokens: int | None = None) -> Tensor:
        """Turns pairs of x [B, S, H, D] by the angles of ``cos`` and ``sin``, [tokens, D/2] or [B, tokens, D/2].

        ``interleaved``: pairs are (0, 1), (2, 3), … as in FLUX, Wan and HunyuanVideo; else (0, D/2), (1, D/2 + 1), ….
        ``tokens``: how many leading tokens are turned, None for all; the others stay as they are.
        """
        ...

    def norm_rotary(
        self,
        x: Tensor,
        weight: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        *,
        eps: float,
        interleaved: bool,
        tokens: int | None = None,
    ) -> Tensor:
        """``rotary(rms_norm(x))``, in one pass over the memory where the backend can."""
        ...

    # -- caching

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
        """sum_k weights[k] · features[k] in fp32 (fp64 for fp64 features), in the dtype of ``features[0]``.

        ``features``: K tensors of one shape on one device, of any strides; ``weights``: K numbers on the host, or a
        tensor [K] on the device, which is read when the device gets there (so that a captured graph can be replayed
        with other weights). The result is a new tensor; a zero weight ignores its feature only up to 0 · nan.
        """
        ...

    def change(self, now: Tensor, before: Tensor) -> Tensor:
        """[2] fp32: sum|now - before| and sum|before|, for two tensors of one shape, of any strides.

        The same inputs give the same bits: the order of the sums is fixed.
        """
        ...

    # -- memory

    def offload(self, x: Tensor) -> Parked:
        """Copies a tensor to the host; on an asynchronous device into pinned memory, beside what is being computed."""
        ...

    def begin_fetch(self, parked: Parked) -> Fetching:
        """Begins to bring it back to where it came from, beside what is being computed; its ``wait()`` gives it."""
        ...

    def fetch(self, parked: Parked) -> Tensor:
        """Both at once: later work on the device waits for it, the host does not."""
        ...

    def synchronize(self) -> None:
        """Waits for the device, so that a clock read afterwards is true."""
        ...

    def memory(self) -> Memory: ...

    def reset_peak(self) -> None:
        """Starts a new measurement of :attr:`Memory.peak`."""
        ...

    # -- processes

    def generator(self, seed: int) -> torch.Generator:
        """A generator of its own that draws the same numbers on every device and rank."""
        ...

    def group(self, ranks: Sequence[int] | None, timeout: timedelta) -> Any:
        """A torch.distributed group over ``ranks`` (None: all) that talks through ``collectives``.

        Every process must call it, also those outside ``ranks``. ``timeout`` bounds each of its collectives: a new
        group does not inherit that of the default group.
        """
        ...

    def ungroup(self, group: Any) -> None:
        """Ends a group that :meth:`group` made; all of its ranks call it when none of them has work left in it."""
        ...
