"""The floating point operations of a pipeline's transformers, whatever is at work on them."""

from __future__ import annotations

from typing import Any

from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from c4d.core.integration.hooks import Hooks, Layer
from c4d.core.integration.transformers import transformers_of


class Unattributed(ModuleTracker):
    """Tracks no modules: cache-dit's blocks hold their transformer, a circle that torch's tracker never leaves."""

    def __enter__(self) -> Unattributed:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class Flops:
    """Inside the block, ``count`` grows by the FLOPs of each forward of a transformer of ``pipe``.

    They are those of matrix products, convolutions and attention, as far as torch's counter knows the operators:
    kernels of other packages count nothing. Counting makes every operator slow, so that such a run is not timed.
    """

    def __init__(self, pipe: Any) -> None:
        self.count = 0
        self._transformers = list(transformers_of(pipe).values())
        self._hooks = Hooks(Layer.TIMING)
        self._counters: list[FlopCounterMode] = []

    def __enter__(self) -> Flops:
        for transformer in self._transformers:
            self._hooks.before(transformer, self._begin)
            self._hooks.after(transformer, self._end, always=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.remove()

    def _begin(self, *_: Any) -> None:
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Unattributed()
        self._counters.append(counter.__enter__())

    def _end(self, *_: Any) -> None:
        counter = self._counters.pop()
        counter.__exit__(None, None, None)
        self.count += counter.get_total_flops()
