"""NVIDIA GPUs. Not yet verified on hardware."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch

from c4d.backends.accelerator import Accelerator
from c4d.backends.kernels import Kernel


class Cuda(Accelerator):
    """The reference primitives on an NVIDIA GPU; its memory figures are the caching allocator's."""

    name = "cuda"
    device_type = "cuda"
    collectives = "nccl"
    verified = "not verified on hardware"

    @cached_property
    def attention_kernels(self) -> Mapping[str, Kernel]:  # type: ignore[override]
        from c4d.backends.cuda.attention import kernels

        return kernels(torch.cuda.get_device_capability() if torch.cuda.is_available() else None)

    def missing(self) -> str | None:
        if torch.version.cuda is None:
            return f"this torch ({torch.__version__}) is built without CUDA"
        return None if torch.cuda.is_available() else "torch finds no CUDA device (driver, or CUDA_VISIBLE_DEVICES)"

    def hardware(self) -> str:
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
