"""Attention kernels as data: what each can take, and the choice between them, made before a device sees a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

OWN = "own"  # what a user calls the model's own attention; no kernel has that name
NONE, KEYS, FULL, ADDITIVE, CAUSAL = "none", "keys", "full", "additive", "causal"
MASKS = {
    NONE: "no mask",
    KEYS: "a boolean mask of keys, [B or 1, 1, 1, Sk]",
    FULL: "a boolean mask of queries and keys",
    ADDITIVE: "an additive mask",
    CAUSAL: "causal attention",
}


class UnsupportedError(ValueError):
    """A primitive was asked for what it cannot do; the message names the limit and the way out."""


class Call(NamedTuple):
    """What a choice of a kernel depends on; one for all calls of a request."""

    dtype: torch.dtype
    head_size: int
    mask: str = NONE
    lse: bool = False
    heads: int = 1

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, lse: bool = False) -> Call:
        """Of q [B, Sq, H, D] and k, v [B, Sk, H, D]; :class:`UnsupportedError` for tensors that do not go together."""
        if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
            raise UnsupportedError(
                "attention takes q [B, Sq, H, D] and k, v [B, Sk, H, D] of one batch, head count and head size; these "
                f"are {list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
            )
        if not q.dtype == k.dtype == v.dtype:
            raise UnsupportedError(
                f"attention takes q, k and v of one dtype; these are {q.dtype}, {k.dtype}, {v.dtype}"
            )
        if not q.device == k.device == v.device:
            raise UnsupportedError(
                f"attention takes q, k and v on one device; these are {q.device}, {k.device}, {v.device}"
            )
        for name, x in (("q", q), ("k", k), ("v", v)):
            if x.numel() and x.stride(-1) != 1:
                raise UnsupportedError(
                    f"attention takes a stride of 1 in the last dimension; {name} has strides {x.stride()}"
                )
        return cls(q.dtype, q.shape[3], mask_kind(q, k, mask, causal), lse, q.shape[2])


def mask_kind(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> str:
    """Which of ``MASKS`` this is; :class:`UnsupportedError` for a mask of another shape, dtype or device."""
    if causal:
        if mask is not None or q.shape[1] != k.shape[1]:
            raise UnsupportedError(
                "causal attention takes as many queries as keys and no mask beside it; these are "
                f"{q.shape[1]} queries and {k.shape[1]} keys, {'no' if mask is None else 'a'} mask"
            )
        return CAUSAL
    if mask is None:
        return NONE
    wanted = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if mask.ndim != 4 or any(have not in (1, want) for have, want in zip(mask.shape, wanted, strict=True)):
        raise UnsupportedError(
            f"a mask is [B, H, Sq, Sk], each of them or 1, here {list(wanted)}; it is {list(mask.shape)}"
        )
    if mask.device != q.device:
        raise UnsupportedError(f"the mask is on {mask.device}, q on {q.device}; put both on one device")
    if mask.dtype == torch.bool:
        return KEYS if mask.shape[1] == mask.shape[2] == 1 else FULL
    if mask.dtype != q.dtype:
        raise UnsupportedError(f"a mask is boolean (True: attends) or of the dtype of q, {q.dtype}; it is {mask.dtype}")
    return ADDITIVE


@dataclass(frozen=True)
class Limits:
    """What a kernel takes: dtypes, kinds of masks (``MASKS``; no mask always), head sizes (None: any), LSE or not.

    ``heads``: the most heads (None: any number); ``width``: the most numbers of a token, heads times head size.
    """

    dtypes: tuple[torch.dtype, ...]
    masks: tuple[str, ...] = tuple(MASKS)
    head_sizes: Sequence[int] | None = None
    lse: bool = True
    heads: int | None = None
    width: int | None = None

    def refusal(self, call: Call) -> str | None:
        """The first limit that ``call`` passes, in words; None if it passes none."""
        if call.dtype not in self.dtypes:
            return f"takes {names(self.dtypes)}, not {names([call.dtype])}"
        if self.head_sizes is not None and call.head_size not in self.head_sizes:
            return f"takes head sizes {self.sizes()}, not {call.head_size}"
        if self.heads is not None and call.heads > self.heads:
            return f"takes up to {self.heads} heads, not {call.heads}"
        if self.width is not None and call.heads * call.head_size > self.width:
            return f"takes up to {self.width} numbers a token, not {call.heads} heads of {call.head_size}"
        if call.mask != NONE and call.mask not in self.masks:
            return f"does not take {MASKS[call.mask]}"
        return "does not give the log-sum-exp" if call.lse and not self.lse else None

    def sizes(self) -> str:
        sizes = self.head_sizes
        if isinstance(sizes, range):
            return f"from {sizes[0]} to {sizes[-1]} in steps of {sizes.step}"
        return "of any size" if sizes is None else ", ".join(map(str, sizes))


# run(q, k, v, mask, scale, causal, lse) -> output [B, Sq, H, D], LSE [B, H, Sq] (None unless asked for)
Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None, bool, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Kernel:
    """One attention kernel. ``missing()`` says what keeps it from running here; a ``lossy`` one runs only by name."""

    about: str
    limits: Limits
    run: Run
    lossy: bool = False
    missing: Callable[[], str | None] = lambda: None


def choose(kernels: Mapping[str, Kernel], call: Call, name: str = "auto") -> Kernel:
    """The kernel of that name, or with "auto" the first that is exact and takes ``call``.

    Raises ValueError for an unknown name; :class:`UnsupportedError`, naming the limit and the kernels that would do, if
    the one named (with "auto": every one) cannot take ``call`` or cannot run here.
    """
    if name != "auto" and name not in kernels:
        raise ValueError(f"unknown attention kernel {name!r}: known are auto, {', '.join(kernels)}")
    reasons = {}
    for each in kernels if name == "auto" else [name]:
        kernel = kernels[each]
        reason = "is lossy and runs only by name" if kernel.lossy and name == "auto" else None
        reason = reason or kernel.limits.refusal(call) or kernel.missing()
        if reason is None:
            return kernel
        reasons[each] = reason
    if name == "auto":
        said = "; ".join(f"{each} {reason}" for each, reason in reasons.items())
        raise UnsupportedError(f"no attention kernel takes this: {said}")
    able = [each for each, kernel in kernels.items() if not (kernel.limits.refusal(call) or kernel.missing())]
    raise UnsupportedError(f"attention kernel {name!r} {reasons[name]}; these would do: {', '.join(able) or 'none'}")


def name_of(kernels: Mapping[str, Kernel], kernel: Kernel) -> str:
    return next(name for name, each in kernels.items() if each is kernel)


def names(dtypes: tuple[torch.dtype, ...] | list[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
