"""Keys and values of the frames before, allocated once: the clip's first frames, and a ring of the latest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from c4d.causal.blocks import Blocks
from c4d.core.runtime.history import PLACES


class KVCache:
    """Of all self-attentions of a transformer, for one branch of guidance.

    ``frames``: how many it has room for. ``dtype``: what keys and values are kept in (None: as computed), ``place``:
    where ("device", or "host": all of them are copied to the device in every attention). Which frames of tokens are
    where is known to the host alone, for all attentions together; no number is read from the device.
    """

    def __init__(self, blocks: Blocks, frames: int, *, dtype: torch.dtype | None = None, place: str = "device") -> None:
        if place not in PLACES:
            raise ValueError(f"unknown place {place!r} for keys and values: known are {', '.join(PLACES)}")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"keys and values are kept in a floating-point dtype, not {dtype}")
        self.room = frames if blocks.window is None else min(frames, blocks.window)
        self._ring = self.room - blocks.sink
        self._sink, self._dtype, self._place = blocks.sink, dtype, place
        self._held: dict[int, Tensor] = {}  # of an attention [2, B, room · tokens of a frame, H, D]
        self.start = self.stop = 0  # the frames of the newest block

    def at(self, start: int, stop: int) -> None:
        """The next calls are of the frames from ``start`` until ``stop``: the block after the newest, or that again."""
        again = (start, stop) == (self.start, self.stop)
        if not again and start != self.stop:
            raise RuntimeError(
                f"frames {start} to {stop} are neither the block that came last ({self.start} to {self.stop}) nor the "
                "one after it, and what they attend to may be gone"
            )
        if stop - start > max(self._ring, self._sink - start):
            raise RuntimeError(f"frames {start} to {stop} are more than the {self._ring} that there is room for")
        self.start, self.stop = start, stop

    def of(self, layer: int) -> Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, None]]:
        """What the ``layer``-th attention sees: :data:`c4d.core.attention.Sees`."""

        def sees(k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, None]:
            return (*self._exchange(layer, k, v), None)

        return sees

    def bytes(self) -> int:
        """That are allocated."""
        return sum(held.nbytes for held in self._held.values())

    def clear(self) -> None:
        """Gives all of it back."""
        self._held.clear()
        self.start = self.stop = 0

    def _slots(self) -> list[tuple[int, int]]:
        """Where the newest block's frames are: runs of consecutive slots, in the frames' order."""
        runs: list[tuple[int, int]] = []
        for frame in range(self.start, self.stop):
            slot = frame if frame < self._sink else self._sink + (frame - self._sink) % self._ring
            if runs and runs[-1][1] == slot:
                runs[-1] = runs[-1][0], slot + 1
            else:
                runs.append((slot, slot + 1))
        return runs

    def _exchange(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores keys and values [B, S, H, D] of the newest block; returns all that it attends to."""
        each = k.shape[1] // (self.stop - self.start)
        held = self._held.get(layer)
        if held is None:
            held = self._held[layer] = self._allocated(k, each)
        filled, runs = min(self.stop, self.room), self._slots()
        learns = torch.is_grad_enabled() and (k.requires_grad or v.requires_grad)
        before = self._others(held, runs, filled, each) if learns else None
        taken = 0
        with torch.no_grad():
            for first, last in runs:
                count = (last - first) * each
                for kept, x in zip(held, (k, v), strict=True):
                    kept[:, first * each : last * each].copy_(x[:, taken : taken + count], non_blocking=True)
                taken += count
        if before is not None:  # with gradients of this block alone; what is overwritten later is none of the graph
            return torch.cat((before[0].to(k), k), 1), torch.cat((before[1].to(v), v), 1)
        seen = held[:, :, : filled * each]
        return seen[0].to(k, non_blocking=True), seen[1].to(v, non_blocking=True)

    @staticmethod
    def _others(held: Tensor, runs: list[tuple[int, int]], filled: int, each: int) -> Tensor:
        """A copy of what is kept of other blocks."""
        own = {slot for first, last in runs for slot in range(first, last)}
        rest = [held[:, :, slot * each : (slot + 1) * each] for slot in range(filled) if slot not in own]
        return torch.cat([held[:, :, :0], *rest], 2)

    def _allocated(self, k: Tensor, each: int) -> Tensor:
        shape = 2, k.shape[0], self.room * each, *k.shape[2:]
        pinned = self._place == "host" and k.device.type != "cpu"
        device = k.device if self._place == "device" else torch.device("cpu")
        return torch.empty(shape, dtype=self._dtype or k.dtype, device=device, pin_memory=pinned)


def kv_bytes(
    transformer: Any, frames: int, tokens: int, *, itemsize: int, ranks: int = 1, batch: int = 1, branches: int = 1
) -> int:
    """What the caches of a rollout will hold on each of ``ranks`` (Ulysses): exact, before anything has run.

    ``frames`` of latents that there is room for, of ``tokens`` each; ``branches``: 2 with guidance.
    """
    config = transformer.config
    heads = -(-config.num_attention_heads // ranks)
    of_token = 2 * heads * config.attention_head_dim * config.num_layers * itemsize
    return math.prod((of_token, tokens, frames, batch, branches))
