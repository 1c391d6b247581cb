"""How a transformer's attention reaches a backend: one processor a module, and what they share during a forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
# sees(k, v, mask) -> the keys, values and mask in their place: of earlier calls, too, or not of all tokens
Sees = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]
# attend_all(q, k, v, mask, how many of the last keys of each sample are left out, whether text stands first, sees)
AttendAll = Callable[[Tensor, Tensor, Tensor, Tensor | None, "tuple[int, ...] | None", bool, "Sees | None"], Tensor]
# watch(q, k, v, mask, whether text stands first): what an attention computes with
Watch = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], None]
# resolve(dtype, heads, head size, masked) -> the kernel's name and the kernel; raises ValueError if none can take it
Resolve = Callable[[torch.dtype, int, int, bool], tuple[str, Attend]]


class AttentionPrimitives(Protocol):
    """What processors need of a backend (the whole protocol: ``c4d.backends.base``)."""

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        kernel: str = "auto",
    ) -> Tensor: ...

    def rms_norm(self, x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor: ...

    def rotary(
        self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, tokens: int | None = None
    ) -> Tensor: ...

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
    ) -> Tensor: ...


class AttentionRuntime:
    """Shared by a transformer's processors of equal (heads, head size): primitives and selected kernels.

    Kernels are chosen before a forward and hold until its end. In between, as in a forward that was called past the
    hooks, each call chooses for itself.
    """

    def __init__(self, primitives: AttentionPrimitives, kernel: str) -> None:
        self.primitives, self._kernel = primitives, kernel
        self.spread: AttendAll | None = None  # where tokens are spread over ranks
        self.spread_keys: Attend | None = None  # the same for queries that every rank has
        self.watch: Watch | None = None  # who looks at the attention that computes
        self.reset()

    def reset(self) -> None:
        self.select(self._any)

    def select(self, plain: Attend, masked: Attend | None = None, absent: tuple[int, ...] | None = None) -> None:
        """Kernels for no mask and for a boolean mask of keys (None: each call with one chooses for itself).

        ``absent``: how many of the last keys of each sample the model's masks leave out, None if that is not known.
        """
        self._plain, self._masked, self._absents = plain, masked or self._any, absent
        self.rows: Sequence[int] | None = None  # the samples that attend, where a part of the batch is computed

    @property
    def _absent(self) -> tuple[int, ...] | None:
        if self._absents is None or self.rows is None:
            return self._absents
        return tuple(self._absents[i] for i in self.rows)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[B, Sq, H, D] for q [B, Sq, H, D] and k, v [B, Sk, H, D]."""
        if self.watch is not None:
            self.watch(q, k, v, mask, False)
        return self._attend(q, k, v, mask)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast leaves norms in fp32
        if mask is None:
            return self._plain(q, k, v, None)
        if not (mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == mask.shape[2] == 1):
            return self._any(q, k, v, mask)
        if self._absent is None:
            return self._masked(q, k, v, mask)
        if not any(self._absent):
            return self._plain(q, k, v, None)
        # Without a mask, sample by sample if they differ: the fastest kernels take none.
        kept = [k.shape[1] - n for n in self._absent]
        if len(set(kept)) == 1:
            return self._plain(q, k[:, : kept[0]], v[:, : kept[0]], None)
        parts = zip(*(x.chunk(len(kept)) for x in (q, k, v)), kept, strict=True)
        return torch.cat([self._plain(x, y[:, :n], z[:, :n], None) for x, y, z, n in parts])

    def attend_causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, S, H, D] for q, k and v [B, S, H, D]: a query sees the keys up to its own place."""
        return self.primitives.attention(q.to(v.dtype), k.to(v.dtype), v, causal=True, kernel=self._kernel)

    def attend_all(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, text_first: bool, sees: Sees | None = None
    ) -> Tensor:
        """[B, S, H, D], where q, k and v [B, S, H, D] may be a rank's part of the tokens, beside all of the text.

        ``sees``: what stands in the place of keys, values and mask in this attention.
        """
        if sees is not None and self.spread is None:
            k, v, mask = sees(k, v, mask)
        if self.watch is not None:
            self.watch(q, k, v, mask, text_first)
        if self.spread is None:
            return self._attend(q, k, v, mask)
        q, k = q.to(v.dtype), k.to(v.dtype)
        return self.spread(q, k, v, mask, self._absent, text_first, sees)

    def attend_keys(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[B, Sq, H, D] for q that every rank has, where k and v [B, S, H, D] may be a rank's part of the tokens."""
        if self.spread_keys is None:
            return self.attend(q, k, v, mask)
        return self.spread_keys(q.to(v.dtype), k.to(v.dtype), v, mask)

    def _any(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and mask.is_floating_point():
            mask = mask.to(v.dtype)
        return self.primitives.attention(q, k, v, mask=mask, kernel=self._kernel)


class Processor:
    """Stands in for the processor of one attention module; a copy or a pickle of it is the one that was there before.

    A subclass is one shape of attention: ``__call__`` takes what the model's attention gives its processor.
    ``replaces`` are the full names of the stock classes that it can stand in for, ``kind`` is what reports call it (and
    what tells ``c4d.attention_maps`` whose tokens its keys are: those of a ``"cross-attention"`` are text), and
    ``merges`` says that it needs partial results wherever tokens are spread over ranks (``attend_keys``).
    """

    replaces: tuple[str, ...] = ()
    kind = "attention"
    merges = False

    sees: Sees | None = None  # what its tokens attend to, if not simply to one another

    def __init__(self, work: AttentionRuntime, before: Any) -> None:
        self.work, self.before = work, before

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """That of the processor it stands in for: diffusers looks up by it what it knows of an attention."""
        return type(self.before)

    def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def heads_of(attn: Any) -> tuple[int, int]:
        """How many heads, and of what size."""
        return int(attn.heads), int(attn.inner_dim // attn.heads)

    def __setattr__(self, name: str, value: Any) -> None:
        """diffusers configures attention by attributes of the processor: refused rather than ignored."""
        if name not in ("work", "before", "sees") and value is not None:
            raise AttributeError(f"this attention is c4d's until its with block ends; set {name} before or after it")
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.before, memo)

    def __reduce__(self) -> Any:
        return _itself, (self.before,)


def _itself(processor: Any) -> Any:
    return processor


@contextmanager
def watching(work: AttentionRuntime, watch: Watch) -> Iterator[None]:
    """While ``watch`` looks at what an attention computes with, beside whoever does already."""
    outer = work.watch

    def both(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, text_first: bool) -> None:
        for each in (outer, watch):
            if each is not None:
                each(q, k, v, mask, text_first)

    work.watch = both
    try:
        yield
    finally:
        work.watch = outer


def changed(processor: Any, stock: tuple[str, ...], but: Collection[str] = ()) -> str | None:
    """None for a processor of one of the classes ``stock`` as it was made; else what it is, in words.

    ``but``: attributes that may be set.
    """
    cls = type(processor)
    if f"{cls.__module__}.{cls.__qualname__}" not in stock:
        return cls.__name__
    given = [name for name, value in vars(processor).items() if value is not None and name not in but]
    return f"{cls.__name__} with {', '.join(given)} set" if given else None


def compute_dtype(x: Any, transformer: nn.Module) -> torch.dtype:
    """What the blocks compute in: that of autocast, else of the forward's first tensor, else of the weights."""
    weights = (p for p in transformer.parameters() if p.is_floating_point())
    tensor = x if isinstance(x, Tensor) else next(weights, torch.empty(0))
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    known = None if isinstance(x, Tensor) else getattr(transformer, "dtype", None)  # some weights may be kept in fp32
    return known if isinstance(known, torch.dtype) else tensor.dtype
