"""Backends under test, and memory that shows what was not written, or written beside it."""

from __future__ import annotations

import os

import pytest
import torch
from torch.utils import _pytree as pytree

from c4d.backends import select
from c4d.backends.cuda import Cuda
from c4d.backends.reference import Reference

GUARD = 4096  # numbers before and behind a tensor: more than one tile of any kernel
REAL = {"empty": torch.empty, "empty_like": torch.empty_like, "new_empty": torch.Tensor.new_empty}


class Interpreted(Cuda):
    """The kernels of the cuda backend, run on the CPU by Triton's interpreter."""

    device_type = "cpu"


class Moved:
    """A backend of another device, for tensors on the host: they go there as they lie in memory, and come back."""

    def __init__(self, backend):
        self.backend, self.there = backend, torch.device(backend.device_type)

    def __getattr__(self, name):
        found = getattr(self.backend, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*args, **kwargs):
            args, kwargs = pytree.tree_map_only(torch.Tensor, self.moved, (args, kwargs))
            return pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, found(*args, **kwargs))

        return call

    def moved(self, x):
        whole = REAL["empty"](0, dtype=x.dtype).set_(x.untyped_storage())
        copied = REAL["empty"](whole.shape, dtype=x.dtype, device=self.there).copy_(whole)
        return copied.as_strided(x.shape, x.stride(), x.storage_offset())


DEVICE = Moved(select()) if os.environ.get("C4D_TEST_DEVICE") else None  # the best that can run here
if DEVICE is not None and DEVICE.device_type == "cpu":
    pytest.exit("C4D_TEST_DEVICE is set, but no backend of an accelerator can run here: see c4d doctor", 2)
HERE = {"reference": Reference(), "interpreted": Interpreted()}  # what refuses does so before a device is touched
BACKENDS = HERE if DEVICE is None else {"device": DEVICE}

# What one rounding to the dtype costs, relative; beside it a primitive may lose some roundings of fp32 (or fp64)
# relative to the largest terms of its sums.
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
INNER = {torch.float64: 2.0**-48, torch.float32: 2.0**-20, torch.float16: 2.0**-20, torch.bfloat16: 2.0**-20}
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def close(backend, out, exact, magnitude):
    """Every number within one rounding of the exact one, and a few inner roundings of the terms' magnitude.

    Triton's interpreter cuts bf16 off where hardware rounds (test_compiled.py sees the instruction): twice as much.
    """
    unit, tiny = UNIT[out.dtype], torch.finfo(out.dtype).smallest_normal
    if isinstance(backend, Interpreted) and out.dtype == torch.bfloat16:
        unit *= 2
    bound = 1.01 * unit * exact.abs() + INNER[out.dtype] * magnitude + tiny * unit
    wrong = ~((out.double() - exact).abs() <= bound)  # a nan is wrong, too
    assert out.shape == exact.shape and not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong, the first at {wrong.nonzero()[0].tolist()}"
    )


def surrounded(shape, stride, dtype):
    """nan inside and around, and the buffer that holds it."""
    extent = sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1 if 0 not in shape else 0
    buffer = REAL["empty"](extent + 2 * GUARD, dtype=dtype).fill_(torch.nan)
    return buffer.as_strided(shape, stride, GUARD), buffer


def guarded(x):
    """A copy with the same strides in the midst of nan: a kernel that reads beside it makes nan of its sums."""
    view, _ = surrounded(x.shape, x.stride(), x.dtype)
    distinct = tuple(slice(0, 1) if s == 0 else slice(None) for s in x.stride())
    view[distinct] = x[distinct]  # the numbers along a stride of 0 are one
    return view


@pytest.fixture
def poisoned(monkeypatch):
    """New float tensors are nan in the midst of nan; at the end, what is around them has to be nan still."""
    buffers = []

    def poison(make):
        def made(*args, **kwargs):
            x = make(*args, **kwargs)
            if not x.is_floating_point() or x.device.type != "cpu" or x.numel() == 0:
                return x
            view, buffer = surrounded(x.shape, x.stride(), x.dtype)
            buffers.append((buffer, view))
            return view

        return made

    monkeypatch.setattr(torch, "empty", poison(REAL["empty"]))
    monkeypatch.setattr(torch, "empty_like", poison(REAL["empty_like"]))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(REAL["new_empty"]))
    yield
    for buffer, view in buffers:
        assert buffer[:GUARD].isnan().all() and buffer[-GUARD:].isnan().all(), f"written beside {list(view.shape)}"


def rand(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
