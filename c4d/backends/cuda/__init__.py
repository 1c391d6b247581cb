"""NVIDIA GPUs: the reference primitives on the device. Not yet verified on hardware."""

from __future__ import annotations

import torch

from c4d.backends.reference import Reference


class Cuda(Reference):
    """Plain torch on an NVIDIA GPU; its memory figures are the caching allocator's."""

    name = "cuda"
    device_type = "cuda"
    collectives = "nccl"
    default_dtype = torch.bfloat16
    asynchronous = True
    verified = "not verified on hardware"

    def missing(self) -> str | None:
        if torch.version.cuda is None:
            return f"this torch ({torch.__version__}) is built without CUDA"
        return None if torch.cuda.is_available() else "torch finds no CUDA device (driver, or CUDA_VISIBLE_DEVICES)"

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated()
