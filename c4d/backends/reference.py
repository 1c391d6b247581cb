"""Every primitive in plain torch: the ``cpu`` backend, and the truth that other backends are held against."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from c4d.backends.base import Memory
from c4d.backends.checks import check_features, check_norm, check_pair, check_rotary
from c4d.backends.kernels import Call, Kernel, Limits, Run, choose
from c4d.core.types import Fetching, Parked

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TILE = 1 << 24  # logits held at once by the attention written out: 64 MiB in fp32


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, None]:
    """torch's own attention; which of its kernels runs is torch's choice."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return out.transpose(1, 2), None


def math_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool, lse: bool
) -> tuple[Tensor, Tensor]:
    """Two matrix products and a softmax in fp32 (fp64 for fp64), a tile of queries at a time."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q_, k_, v_ = (x.transpose(1, 2).to(wide) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    B, Sq, H, D = q.shape
    Sk = k.shape[1]
    out, total = torch.empty(B, H, Sq, D, dtype=wide, device=q.device), q_.new_empty(B, H, Sq)
    rows = max(1, TILE // max(1, B * H * Sk))
    for start in range(0, Sq, rows):
        tile = slice(start, start + rows)
        logits = q_[:, :, tile] @ k_.mT * scale
        if causal:
            behind = torch.arange(Sq, device=q.device)[tile, None] < torch.arange(Sk, device=q.device)
            logits.masked_fill_(behind, -torch.inf)
        elif mask is not None:
            part = mask[:, :, tile] if mask.shape[2] > 1 else mask
            logits = logits.masked_fill(~part, -torch.inf) if mask.dtype == torch.bool else logits + part
        total[:, :, tile] = logits.logsumexp(-1)
        seen = total[:, :, tile].clamp_min(torch.finfo(wide).min)  # nothing seen: exp(-inf - finite) = 0
        out[:, :, tile] = (logits - seen[..., None]).exp() @ v_
    return out.transpose(1, 2).to(q.dtype), total.float()


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "sdpa": Kernel("torch's scaled_dot_product_attention", Limits(DTYPES, lse=False), sdpa),
        "math": Kernel("matrix products and a softmax in fp32, tile by tile", Limits(DTYPES), math_attention),
    }
)


class Reference:
    """Plain torch on any device torch knows; as the ``cpu`` backend, on the host."""

    name = "cpu"
    device_type = "cpu"
    collectives = "gloo"
    resource = "CPU"
    default_dtype = torch.float32
    dtypes: tuple[torch.dtype, ...] = DTYPES
    asynchronous = False
    verified = "every test of the suite runs on it"

    attention_kernels: Mapping[str, Kernel] = KERNELS

    def missing(self) -> str | None:
        return None

    def hardware(self) -> str:
        return platform.processor() or platform.machine()

    def advice(self) -> Sequence[str]:
        return ()

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
        run = self._kernel(Call.of(q, k, v, mask, causal), kernel, empty=not (q.numel() and k.numel()))
        return run(q, k, v, mask, scale, causal, False)[0]

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
        run = self._kernel(Call.of(q, k, v, mask, causal, lse=True), kernel, empty=not (q.numel() and k.numel()))
        out, lse = run(q, k, v, mask, scale, causal, True)
        assert lse is not None
        return out, lse

    def _kernel(self, call: Call, name: str, empty: bool) -> Run:
        chosen = choose(self.attention_kernels, call, name)
        return math_attention if empty else chosen.run  # kernels of devices do not take tensors without numbers

    # -- norm and rotary embedding

    def rms_norm(self, x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
        check_norm(x, weight)
        if weight is None or weight.numel() == x.shape[-1]:
            return F.rms_norm(x, x.shape[-1:], weight, eps)
        return F.rms_norm(x.flatten(2), weight.shape, weight, eps).view_as(x)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, tokens: int | None = None) -> Tensor:
        turned = check_rotary(x, cos, sin, tokens)
        wide = torch.promote_types(x.dtype, torch.float32)
        c, s = (table.to(wide).unsqueeze(-2) for table in (cos, sin))
        half = x.shape[-1] // 2
        first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, None))
        a, b = x[:, :turned, :, first], x[:, :turned, :, second]
        out = torch.empty_like(x)
        out[:, :turned, :, first] = a * c - b * s
        out[:, :turned, :, second] = a * s + b * c
        out[:, turned:] = x[:, turned:]
        return out

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
        check_norm(x, weight)
        wide = torch.promote_types(x.dtype, torch.float32)  # so that there is one rounding, at the end
        normed = self.rms_norm(x.to(wide), None if weight is None else weight.to(wide), eps=eps)
        return self.rotary(normed, cos, sin, interleaved=interleaved, tokens=tokens).to(x.dtype)

    # -- caching

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
        check_features(features, weights)
        dtype = features[0].dtype
        if narrow := dtype != torch.float64 and dtype != torch.float32:
            features = [feature.float() for feature in features]
        if isinstance(weights, Tensor):  # on the device: never read here
            total = features[0] * weights[0]
            for feature, weight in zip(features[1:], weights[1:], strict=True):
                total.addcmul_(feature, weight)
            return total.to(dtype)
        if len(features) > 1 and weights[0] == 1.0:  # a residual on its base: one pass over the memory less
            total, done = torch.add(features[0], features[1], alpha=weights[1]), 2
        else:
            total, done = features[0] * weights[0], 1
        for feature, weight in zip(features[done:], weights[done:], strict=True):
            total.add_(feature, alpha=weight)  # in place: a new large tensor costs more than the arithmetic
        return total.to(dtype) if narrow else total

    def change(self, now: Tensor, before: Tensor) -> Tensor:
        check_pair(now, before)
        before = before.float()
        return torch.stack(((now.float() - before).abs().sum(), before.abs().sum()))

    # -- memory

    def offload(self, x: Tensor) -> Parked:
        return Parked(x.detach().to("cpu", copy=True), x.device)

    def begin_fetch(self, parked: Parked) -> Fetching:
        return Fetching(parked.tensor.to(parked.device))

    def fetch(self, parked: Parked) -> Tensor:
        return self.begin_fetch(parked).wait()

    def synchronize(self) -> None:
        return None

    def memory(self) -> Memory:
        import psutil

        held, machine = psutil.Process().memory_info().rss, psutil.virtual_memory()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Memory(held, held, max(held, peak), machine.available, machine.total)

    def reset_peak(self) -> None:
        return None  # the operating system keeps one peak for the life of the process

    # -- processes

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def group(self, ranks: Sequence[int] | None, timeout: timedelta) -> Any:
        return torch.distributed.new_group(
            None if ranks is None else list(ranks), timeout=timeout, backend=self.collectives
        )

    def ungroup(self, group: Any) -> None:
        torch.distributed.destroy_process_group(group)  # nothing where this process is no member
