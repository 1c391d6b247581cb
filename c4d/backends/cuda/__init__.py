"""NVIDIA GPUs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from c4d.backends.accelerator import Accelerator
from c4d.backends.checks import check_dtype, check_features, check_norm, check_pair, check_rotary
from c4d.backends.kernels import Kernel


class Cuda(Accelerator):
    """Triton kernels on an NVIDIA GPU; its memory figures are the caching allocator's.

    The kernels take tensors that are on the GPU and want no gradient. Others, such as those of a model that was left
    on the host, get the reference's plain torch.
    """

    name = "cuda"
    device_type = "cuda"
    collectives = "nccl"
    allocator = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    waiting = MappingProxyType({"CUDA_LAUNCH_BLOCKING": "1"})
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    verified = "primitives, attention and loops of FLUX.1 on an H100 (torch 2.11); compiled for sm_80 and sm_100"

    @cached_property
    def attention_kernels(self) -> Mapping[str, Kernel]:  # type: ignore[override]
        from c4d.backends.cuda.attention import kernels

        return kernels(torch.cuda.get_device_capability() if torch.cuda.is_available() else None)

    def missing(self) -> str | None:
        if torch.version.cuda is None:
            return f"this torch ({torch.__version__}) is built without CUDA"
        if not torch.cuda.is_available():
            return "torch finds no CUDA device (driver, or CUDA_VISIBLE_DEVICES)"
        return None if importlib.util.find_spec("triton") else "triton is not installed (pip install triton)"

    def hardware(self) -> str:
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"

    # -- norm and rotary embedding

    def rms_norm(self, x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
        # torch's: for a weight of x's dtype one fused kernel on CUDA already, in a compiled block fused with its
        # neighbours, too; alone it has nothing to share a pass over the memory with.
        if self._ours(x, weight):
            check_dtype("rms_norm on cuda", self.dtypes, x)
        return super().rms_norm(x, weight, eps=eps)

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, tokens: int | None = None) -> Tensor:
        if not self._ours(x, cos, sin):
            return super().rotary(x, cos, sin, interleaved=interleaved, tokens=tokens)
        from c4d.backends.cuda.norm_rotary import NONE, launch, norm_rotary

        turned = check_rotary(x, cos, sin, tokens)
        check_dtype("rotary on cuda", self.dtypes, x)
        run = norm_rotary if torch.compiler.is_compiling() else launch  # the wrapper doubles the host's time
        return run(x, None, cos, sin, 0.0, NONE, interleaved, turned)

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
        if not self._ours(x, weight, cos, sin):
            return super().norm_rotary(x, weight, cos, sin, eps=eps, interleaved=interleaved, tokens=tokens)
        from c4d.backends.cuda.norm_rotary import HEAD, TOKEN, launch, norm_rotary

        check_norm(x, weight)
        turned = check_rotary(x, cos, sin, tokens)
        check_dtype("norm_rotary on cuda", self.dtypes, x)
        norm = HEAD if weight is None or weight.numel() == x.shape[-1] else TOKEN
        run = norm_rotary if torch.compiler.is_compiling() else launch
        return run(x, weight, cos, sin, eps, norm, interleaved, turned)

    # -- caching

    def lincomb(self, features: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
        check_features(features, weights)
        if not self._ours(*features):
            return super().lincomb(features, weights)
        from c4d.backends.cuda.lincomb import lincomb

        check_dtype("lincomb on cuda", self.dtypes, *features)
        return lincomb(features, weights)

    def change(self, now: Tensor, before: Tensor) -> Tensor:
        check_pair(now, before)
        if not self._ours(now, before):
            return super().change(now, before)
        from c4d.backends.cuda.lincomb import change

        check_dtype("change on cuda", self.dtypes, now, before)
        return change(now, before)

    def _ours(self, *tensors: Tensor | None) -> bool:
        """Whether the kernels here take these: on the host they cannot run, and they have no backward."""
        given = [x for x in tensors if x is not None]
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        return given[0].device.type == self.device_type and not wanted
