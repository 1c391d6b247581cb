"""Every primitive in plain torch: the ``cpu`` backend, and the truth that other backends are held against."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from c4d.core.types import Parked


class Reference:
    """Plain torch on any device torch knows; as the ``cpu`` backend, on the host."""

    name = "cpu"
    device_type = "cpu"
    collectives = "gloo"
    default_dtype = torch.float32
    asynchronous = False
    verified = "every test of the suite runs on it"

    def missing(self) -> str | None:
        return None

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        dtype = features[0].dtype
        if narrow := dtype != torch.float64 and dtype != torch.float32:
            features = [feature.float() for feature in features]
        if len(features) > 1 and weights[0] == 1.0:  # a residual on its base: one pass over the memory less
            total, done = torch.add(features[0], features[1], alpha=weights[1]), 2
        else:
            total, done = features[0] * weights[0], 1
        for feature, weight in zip(features[done:], weights[done:], strict=True):
            total.add_(feature, alpha=weight)  # in place: a new large tensor costs more than the arithmetic
        return total.to(dtype) if narrow else total

    def change(self, now: Tensor, before: Tensor) -> Tensor:
        before = before.float()
        return torch.stack(((now.float() - before).abs().sum(), before.abs().sum()))

    def offload(self, x: Tensor) -> Parked:
        return Parked(x.detach().to("cpu", copy=True), x.device)

    def fetch(self, parked: Parked) -> Tensor:
        return parked.tensor.to(parked.device)

    def synchronize(self) -> None:
        return None

    def reset_peak(self) -> None:
        return None  # the operating system keeps one peak for the life of the process

    def peak_bytes(self) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
