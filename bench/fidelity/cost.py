"""What a system computed, counted alike for all: rows through the modules inside the blocks, where no cache reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# A module of the block, and one inside it that runs exactly when it is computed. Hooks on the blocks or on the modules
# themselves would also see the calls that a cache answers: the peers replace their forwards.
LEAVES = {"attn1": "to_q", "attn2": "to_q", "ffn": "net.0.proj"}


def shares(transformer: nn.Module, run: Callable[[], Any]) -> dict[str, float]:
    """Of the matrix products (FLOPs) of a block, the share of each module; ``run`` must call the transformer."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()
    block = f"{type(transformer).__name__}.blocks.0"
    total = sum(counts[block].values())
    parts = {name: sum(counts[f"{block}.{name}"].values()) / total for name in LEAVES}
    if abs(sum(parts.values()) - 1.0) > 1e-6:
        raise RuntimeError(f"the blocks have matrix products outside {', '.join(LEAVES)}: {parts}")
    return parts


class Rows:
    """While it is open: the block-rows (samples through a block) computed, by FLOPs, and those that entered a block."""

    def __init__(self, transformer: nn.Module, parts: dict[str, float]) -> None:
        self.transformer, self.parts = transformer, parts
        self.computed = self.entered = 0.0
        self._handles: list[Any] = []

    def __enter__(self) -> Rows:
        for block in self.transformer.blocks:  # type: ignore[union-attr]
            for name, share in self.parts.items():
                leaf = block.get_submodule(f"{name}.{LEAVES[name]}")
                self._handles.append(leaf.register_forward_pre_hook(self._count(share)))
            self._handles.append(block.norm1.register_forward_pre_hook(self._enter))
        return self

    def _count(self, share: float) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self.computed += share * len(args[0])

        return hook

    def _enter(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.entered += len(args[0])

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
