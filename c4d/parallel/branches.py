"""Guidance on two groups of ranks: each computes one of the two calls of a step, and they exchange what comes out.

A call that the other group runs returns a placeholder here. It is filled in place when the step's second call ends,
before the pipeline combines the two. In the first step its shape is unknown: each group waits for the other instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.integration.hooks import ForwardPatch, Hooks, Layer, Unsaved, named
from c4d.parallel.agree import refuse_alone
from c4d.parallel.collectives import Group, gather

BRANCHES = 2
PAIRS = "cfg=2 needs every step to call the transformer for both branches of guidance, one after the other"


class CFGParallel(Unsaved):
    """The calls of one transformer, of which this rank computes every other one.

    ``place()`` is the same in both calls of a step and another one in the next. Without it (a loop of one's own) the
    timestep of each call tells, which the host reads for that.
    """

    name: str | None = None

    def __init__(self, transformer: nn.Module, group: Group, place: Callable[[], Any] | None) -> None:
        self.transformer, self._group = transformer, group
        self._place = place
        self.current = self  # what Forward hands to its wrapper
        self._hooks = Hooks(Layer.BRANCHES)
        self._forward: ForwardPatch | None = None
        self._reset()

    def install(self) -> None:
        self._hooks.before(self.transformer, self.enter)
        self._hooks.after(self.transformer, self.leave, first=True, always=True)
        self._forward = ForwardPatch(self, self.transformer, unless_elsewhere)

    def remove(self) -> None:
        self._hooks.remove()
        if self._forward is not None:
            self._forward.remove()
        self._forward = None
        self._reset()

    def _reset(self) -> None:
        self._call = BRANCHES - 1  # of the step under way
        self._step: Any = None  # where the schedule stood in its first call
        self._own: Tensor | None = None
        self._open: Tensor | None = None  # given out for the other branch, not filled yet
        self._known: dict[Any, Any] = {}  # what a forward returns, by what it is given

    @property
    def runs_elsewhere(self) -> bool:
        """Whether the other group runs the call under way."""
        return self._call != self._group.rank

    @property
    def halfway(self) -> bool:
        """Whether the step under way still lacks its second call."""
        return self._call != BRANCHES - 1

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_alone(self.transformer)
        given = named(self.transformer, args, kwargs)
        latents, place = given["hidden_states"], self._place() if self._place else told(given.get("timestep"))
        self._call = (self._call + 1) % BRANCHES
        if self._call and place != self._step:
            raise RuntimeError(f"{PAIRS}; the schedule went on between these two calls: use cfg=1")
        self._step, self._device = place, latents.device
        self._key = (latents.shape, latents.dtype, kwargs.get("return_dict"))

    def skipped(self) -> Any:
        """What the forward of another group's call returns; nothing, (), while nobody knows its shape."""
        known = self._known.get(self._key)
        if known is None:
            return ()
        self._open, structure = torch.full_like(known[0], torch.nan), known[1]  # NaN, so that a missed exchange is seen
        return pytree.tree_unflatten([self._open], structure)

    def leave(self, args: Any, output: Any) -> Any:
        """After a call: what it returns (None: what it did); the exchange, after a step's second one."""
        if self._forward is not None and not self._forward.outermost:
            self._forward = self._forward.renewed()
        if output is None:  # it raised, maybe in another call than on other ranks: what comes next is a first call
            self._call, self._own, self._open = BRANCHES - 1, None, None
            return None
        if self._key not in self._known:
            return self._first(output)
        if not self.runs_elsewhere:
            (self._own,), _ = pytree.tree_flatten(output)
        if self._call == BRANCHES - 1:
            assert self._own is not None
            other = gather(self._own, self._group)[1 - self._group.rank]
            if self._open is not None:  # else an offload hook had exchanged the forward, and this rank computed it too
                self._open.copy_(other)
            self._own = self._open = None
        return None

    def _first(self, output: Any) -> Any:
        """Both calls of a first step go to every rank at once, as they are."""
        here = self._device
        sent = [None if self.runs_elsewhere else pytree.tree_map_only(Tensor, Tensor.cpu, output)]
        source = dist.get_global_rank(self._group.handle, self._call)
        dist.broadcast_object_list(sent, source, self._group.handle, device=here)
        output = pytree.tree_map_only(Tensor, lambda x: x.to(here), sent[0]) if self.runs_elsewhere else output
        leaves, structure = pytree.tree_flatten(output)
        if len(leaves) != 1:
            raise RuntimeError(f"cfg=2 takes transformers that return one tensor, not {len(leaves)}: use cfg=1")
        if self._call == BRANCHES - 1:
            self._known[self._key] = leaves[0], structure
        return output if self.runs_elsewhere else None


def told(timestep: Any) -> Any:
    return timestep.tolist() if isinstance(timestep, Tensor) else timestep


def unless_elsewhere(current: CFGParallel, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return current.skipped() if current.runs_elsewhere else original(*args, **kwargs)
