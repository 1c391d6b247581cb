"""Ascend NPUs through torch_npu. Not yet verified on hardware."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from c4d.backends.accelerator import Accelerator
from c4d.backends.ascend import chips, fused, installed
from c4d.backends.ascend.attention import kernels
from c4d.backends.checks import check_dtype, check_norm, check_rotary
from c4d.backends.kernels import Kernel


class Ascend(Accelerator):
    """Fused operators of torch_npu on an Ascend NPU; its memory figures are the caching allocator's.

    Norm and rotary embedding take the operators for tensors on an NPU that are within their limits, on a chip that has
    them, and want no gradient. Others get the reference's plain torch, as caching does on every chip; its sums are in a
    fixed order, and :meth:`change` gives the same bits, only under ``torch.use_deterministic_algorithms``.
    """

    name = "ascend"
    device_type = "npu"
    collectives = "hccl"
    resource = "NPU"
    # torch_npu knows the name without NPU from 2.13 on.
    allocator = ("PYTORCH_NPU_ALLOC_CONF", "PYTORCH_ALLOC_CONF")[: 1 + (TorchVersion(torch.__version__) >= "2.13")]
    waiting = MappingProxyType({"ASCEND_LAUNCH_BLOCKING": "1", "TASK_QUEUE_ENABLE": "0"})
    verified = "torch_npu's own host code over a simulated device; not verified on hardware"

    @cached_property
    def chip(self) -> str | None:
        """What the driver calls the NPU, such as "Ascend910B3"; None if there is none."""
        return torch.npu.get_device_name() if self.missing() is None else None  # type: ignore[attr-defined]

    @cached_property
    def dtypes(self) -> tuple[torch.dtype, ...]:  # type: ignore[override]
        """Chips before the Ascend910B have no bfloat16. What is not here is said to have it."""
        bf16 = self.chip is None or torch.npu.is_bf16_supported()  # type: ignore[attr-defined]
        return (*((torch.bfloat16,) if bf16 else ()), torch.float16, torch.float32)

    @property
    def default_dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.dtypes[0]

    @cached_property
    def attention_kernels(self) -> Mapping[str, Kernel]:  # type: ignore[override]
        return kernels(self.chip, self.dtypes)

    def missing(self) -> str | None:
        if (reason := installed.trouble()) is not None:
            return reason
        if not torch.npu.is_available():  # type: ignore[attr-defined]
            return "torch_npu finds no NPU (npu-smi info; ASCEND_RT_VISIBLE_DEVICES)"
        return super().missing()

    def hardware(self) -> str:
        cann = torch.npu.utils.get_cann_version()  # type: ignore[attr-defined]
        return f"{self.chip}, CANN {cann or 'of an unknown version'}"

    # -- norm and rotary embedding

    def rms_norm(self, x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
        check_norm(x, weight)
        if not self._ours(x, weight) or (weight is not None and weight.dtype != x.dtype):
            return super().rms_norm(x, weight, eps=eps)
        check_dtype("rms_norm on ascend", self.dtypes, x)
        return fused.rms_norm(x, weight, eps)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, tokens: int | None = None) -> Tensor:
        turned = check_rotary(x, cos, sin, tokens)
        if not self._ours(x, cos, sin) or not fused.takes_rotary(x, cos, turned):
            return super().rotary(x, cos, sin, interleaved=interleaved, tokens=tokens)
        check_dtype("rotary on ascend", self.dtypes, x)
        return fused.rotary(x, cos, sin, interleaved, turned)

    # norm_rotary is the reference's: norm, then rotary embedding, each above, between them fp32.

    def _ours(self, *tensors: Tensor | None) -> bool:
        """Whether the operators here take these: they run on an NPU and carry no gradient."""
        given = [x for x in tensors if x is not None]
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        there = given[0].device.type == self.device_type and given[0].numel() > 0
        return there and not wanted and chips.fused(self.chip)
