"""How many bytes modules have, as modes divide them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def size_of(*modules: nn.Module) -> int:
    """Of all their parameters and buffers, shared ones once."""
    return sum(x.nbytes for x in {id(x): x for m in modules for x in (*m.parameters(), *m.buffers())}.values())


def deepest(module: nn.Module, *, buffers: bool = True) -> int:
    """The most that one module has together with those that it is in, each without its children: what is there at once
    where every module's own weights come and go with its forward."""
    own = sum(x.nbytes for x in module.parameters(recurse=False))
    own += sum(x.nbytes for x in module.buffers(recurse=False)) if buffers else 0
    return own + max((deepest(child, buffers=buffers) for child in module.children()), default=0)


def widest(module: nn.Module, stored: torch.dtype, wide: torch.dtype) -> int:
    """The most that one layer's parameters of the dtype ``stored`` come to in ``wide``."""
    layers = ([x for x in layer.parameters(recurse=False) if x.dtype == stored] for layer in module.modules())
    return max((sum(x.numel() for x in layer) for layer in layers), default=0) * wide.itemsize


def blocks_of(module: Any) -> list[list[nn.Module]]:
    """The lists that diffusers' group offloading by blocks divides: those right in ``module``, and in its children that
    it names as holding blocks."""
    named = set(getattr(module, "_group_offload_block_modules", None) or ())
    found = []
    for name, child in module.named_children():
        if name in named:
            found += blocks_of(child)
        elif isinstance(child, nn.ModuleList | nn.Sequential):
            found.append(list(child))
    return found
