"""One transformer that goes through a clip block by block, for the time of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from c4d.causal.blocks import Blocks
from c4d.causal.memory import KVCache
from c4d.core.attention import Processor, Sees
from c4d.core.integration.hooks import Hooks, Layer, Unsaved, at_work
from c4d.core.integration.processor_patch import AttentionSession, ProcessorPatch
from c4d.core.spec import Causal, ModelSpec
from c4d.models import SPECS
from c4d.parallel.session import Parallel


def causal_of(spec: ModelSpec) -> Causal:
    """Raises ValueError for a model that is not described as one that can go block by block."""
    if spec.causal is None:
        able = ", ".join(name for name, each in SPECS.items() if each.causal is not None)
        raise ValueError(
            f"c4d does not know how {spec.transformer} goes through a clip block by block; it does for {able} "
            "(ModelSpec(causal=…), docs/adding_a_model.md)"
        )
    return spec.causal


class CausalPatch(Unsaved):
    """Hooks on the module that tells positions, and what each self-attention sees.

    ``attention``: makes the session that puts processors in, where no :func:`c4d.sharded` has done that already.
    """

    def __init__(self, transformer: nn.Module, spec: ModelSpec, attention: Callable[[], AttentionSession]) -> None:
        self.transformer, self.causal, self._attention = transformer, causal_of(spec), attention
        self._hooks = Hooks(Layer.POSITIONS)
        self._start = 0
        self._stack: ExitStack | None = None
        self._processors: Sequence[Processor] = ()

    def __enter__(self) -> CausalPatch:
        with ExitStack() as stack:
            processors = self._fitting(stack).to_themselves
            if not processors:
                raise ValueError(f"{type(self.transformer).__name__} has no self-attention with its stock processor")
            stack.callback(self._hooks.remove)
            stack.callback(self.see, None)
            self._processors = processors
            place = self.transformer.get_submodule(self.causal.positions)
            self._hooks.after(place, self.moved, place, first=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._stack is not None
        self._stack.close()
        self._processors = ()

    def _fitting(self, stack: ExitStack) -> ProcessorPatch:
        parallel = at_work(self.transformer, Parallel)
        session = at_work(self.transformer, ProcessorPatch) if parallel is None else None
        if session is not None:
            return session
        attention = stack.enter_context(self._attention()) if parallel is None else parallel.attention
        return next(each for each in attention.fittings if each.transformer is self.transformer)

    def see(self, seen: Callable[[int], Sees] | None) -> None:
        """From the next forward on: ``seen(i)`` is what the i-th self-attention sees, None: its own tokens."""
        for i, processor in enumerate(self._processors):
            processor.sees = None if seen is None else seen(i)

    def block(self, cache: KVCache, start: int, stop: int) -> None:
        """The next forwards are of the frames from ``start`` until ``stop``, over what ``cache`` keeps."""
        own = self.causal.masked(self.transformer)
        if own not in (1, stop - start):
            raise ValueError(
                f"{type(self.transformer).__name__} was made for blocks of {own} frames (num_frame_per_block); a block "
                f"of {stop - start} would get a mask inside: use block={own}"
            )
        cache.at(start, stop)
        self._start = start
        self.see(cache.of)

    def masked(self, blocks: Blocks, frames: int, tokens: int) -> None:
        """The next forwards are of all ``frames`` of a clip at once, ``tokens`` each, under the mask of ``blocks``."""
        mask = blocks.sees(frames).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)[None, None]
        placed = mask.to(next(self.transformer.parameters()).device)
        self._start = 0
        self.see(lambda layer: lambda k, v, _: (k, v, placed))

    # -- called by its hook

    def moved(self, place: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.causal.later(place, args, output, self._start) if self._start else None
