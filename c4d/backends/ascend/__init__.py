"""Ascend NPUs through torch_npu. Not yet verified on hardware."""

from __future__ import annotations

from functools import cached_property

import torch

from c4d.backends.accelerator import Accelerator
from c4d.backends.ascend import installed


class Ascend(Accelerator):
    """Kernels of torch_npu on an Ascend NPU; its memory figures are the caching allocator's."""

    name = "ascend"
    device_type = "npu"
    collectives = "hccl"
    verified = "torch_npu's own host code over a simulated device; not verified on hardware"

    @cached_property
    def dtypes(self) -> tuple[torch.dtype, ...]:  # type: ignore[override]
        """Chips before the Ascend910B have no bfloat16."""
        bf16 = self.missing() is not None or torch.npu.is_bf16_supported()  # type: ignore[attr-defined]
        return (*((torch.bfloat16,) if bf16 else ()), torch.float16, torch.float32)

    @property
    def default_dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.dtypes[0]

    def missing(self) -> str | None:
        if (reason := installed.trouble()) is not None:
            return reason
        if not torch.npu.is_available():  # type: ignore[attr-defined]
            return "torch_npu finds no NPU (npu-smi info; ASCEND_RT_VISIBLE_DEVICES)"
        return super().missing()

    def hardware(self) -> str:
        return torch.npu.get_device_name()  # type: ignore[attr-defined]
