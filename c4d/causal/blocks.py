"""Which frames are made together, and what each of them attends to. Frames here are those of the latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """``size`` frames are made together; ``alone``: the first frame is a block of its own.

    A frame attends to its own block and to what precedes it: with ``window`` to so many frames at most, of which the
    first ``sink`` of the clip never leave. None: to all of them.
    """

    size: int = 3
    alone: bool = False
    window: int | None = None
    sink: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"block is {self.size}; allowed are whole numbers of latent frames from 1")
        if self.sink < 0:
            raise ValueError(f"sink is {self.sink}; allowed are whole numbers of latent frames from 0")
        if self.window is None and self.sink:
            raise ValueError(f"sink is {self.sink} without a window, which alone drops frames: give a window, too")
        if self.window is not None and self.window < self.sink + self.size:
            raise ValueError(
                f"window is {self.window}; it has to hold {self.sink} frames of the sink and a block of {self.size}: "
                f"allowed are whole numbers from {self.sink + self.size}"
            )

    def spans(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """(first frame, one behind the last) of each block, without end; ``start`` frames are there already."""
        first = 1 if self.alone and start == 0 else self.size
        yield start, start + first
        for i in count():
            yield start + first + i * self.size, start + first + (i + 1) * self.size

    def whole(self, frames: int, start: int = 0) -> int:
        """The fewest frames in whole blocks that are at least ``frames`` more than ``start``."""
        return next(stop - start for _, stop in self.spans(start) if stop - start >= frames)

    def sees(self, frames: int) -> Tensor:
        """[frames, frames], True where the row's frame attends to the column's: what :class:`KVCache` keeps, as a mask.

        Raises ValueError unless the frames are whole blocks.
        """
        if self.whole(frames) != frames:
            raise ValueError(f"{frames} frames are no whole blocks ({self}); {self.whole(frames)} are")
        seen = torch.zeros(frames, frames, dtype=torch.bool)
        for start, stop in self.spans():
            if start >= frames:
                return seen
            kept = stop if self.window is None else self.window - self.sink
            seen[start:stop, max(0, stop - kept) : stop] = True
            seen[start:stop, : min(self.sink, stop)] = True
        raise AssertionError("spans have no end")
