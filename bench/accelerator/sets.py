"""Tensors of the models' sizes, so many that none is met again while it is in the device's last cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.accelerator.machine import Machine

SHAPES = {
    "FLUX": ((1, 4608, 3072), torch.bfloat16),
    "Wan 1.3B": ((1, 32760, 1536), torch.float32),  # the exit of Wan is fp32
    "Wan 14B 720p": ((1, 75600, 5120), torch.float32),
    "Wan 14B 720p, bf16": ((1, 75600, 5120), torch.bfloat16),
    "HunyuanVideo": ((1, 118800, 3072), torch.bfloat16),
}
TINY = {"FLUX": ((1, 48, 32), torch.bfloat16), "Wan 1.3B": ((1, 64, 16), torch.float32)}
# Queries, [batch, tokens, heads, head size]; True: all heads of a token are normed together.
HEADS = {"FLUX": (1, 4608, 24, 128, False), "Wan 1.3B": (1, 32760, 12, 128, True)}
WEIGHTS = ([1.0], [2.0, -1.0], [3.0, -3.0, 1.0], [4.0, -6.0, 4.0, -1.0])
COLD = 2**29  # bytes that go by before a tensor is met again: more than any last cache (50 to 192 MB)


def shape_of(machine: Machine, model: str) -> tuple[tuple[int, ...], torch.dtype]:
    return (TINY if machine.rehearsal else SHAPES)[model]


def rotating(machine: Machine, shape: Sequence[int], dtype: torch.dtype, count: int) -> list[list[Tensor]]:
    """Sets of ``count`` tensors, as many sets as it takes to be ``COLD``."""
    one = machine.rand(*shape, dtype=dtype)
    needed = 2 if machine.rehearsal else max(2, -(-COLD // (count * one.nbytes)))
    return [[one.clone() for _ in range(count)] for _ in range(needed)]


def heads(machine: Machine, model: str) -> tuple[list[list[Tensor]], Tensor, Tensor, Tensor]:
    """Sets of two tensors like queries, a norm's weight, and tables of cosines and sines."""
    B, S, H, D, together = HEADS[model]
    S = 24 if machine.rehearsal else S
    weight = torch.ones(H * D if together else D, dtype=torch.bfloat16, device=machine.device)
    angles = machine.rand(S, D // 2, dtype=torch.float32, seed=1)
    return rotating(machine, (B, S, H, D), torch.bfloat16, 2), weight, angles.cos(), angles.sin()
