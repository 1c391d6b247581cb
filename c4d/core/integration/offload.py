"""Living with offloaded or divided weights: blocks left out must not be fetched, parts that a signal reads must be.

Works on what diffusers, accelerate and torch's ``fully_shard`` hang on modules, by its attributes, so that the core
imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


def hook_of(module: nn.Module, name: str) -> Any:
    """The hook of this name that diffusers has hung on a module; None if there is none."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry.get_hook(name) if registry is not None else None


def _group_hook(module: nn.Module) -> Any:
    return hook_of(module, "group_offloading")


def offloaded(module: nn.Module) -> bool:
    """Whether somebody moves its weights to the device when it, or a part of it, runs."""
    return any(hasattr(m, "_hf_hook") or _group_hook(m) is not None for m in module.modules())


def divided_over(module: nn.Module) -> list[int]:
    """The ranks that have its weights together (torch's ``fully_shard``); empty if this process has them whole."""
    for weight in module.parameters():
        if (mesh := getattr(weight, "device_mesh", None)) is not None:
            return [int(rank) for rank in mesh.mesh.flatten()]
    return []


def offload_hooks(transformer: nn.Module) -> list[tuple[nn.Module, Any]]:
    """Every module with a group-offload hook, and that hook."""
    return [(m, hook) for m in transformer.modules() if (hook := _group_hook(m)) is not None]


def tracing(transformer: nn.Module) -> bool:
    """True while a streamed group offload learns the order of execution: that forward must run every block."""
    return hook_of(transformer, "lazy_prefetch_group_offloading") is not None


@contextmanager
def onloaded(block: nn.Module) -> Iterator[None]:
    """The block's parameters on the compute device, for code that calls a part of it without calling the block."""
    hooks = [hook for hook in (_group_hook(block), getattr(block, "_hf_hook", None)) if hook is not None]
    divided: Any = block if divided_over(block) else None
    for hook in hooks:
        hook.pre_forward(block)
    if divided is not None:
        divided.unshard()
    try:
        yield
    finally:
        if divided is not None:
            divided.reshard()
        for hook in reversed(hooks):
            hook.post_forward(block, None)


class Bridge:
    """For one forward without blocks: prefetch chains lead past them, to what runs after the loops.

    A streamed group offload fetches the next group while one computes. On a reused forward the group before the blocks
    would fetch block 0, which is then never entered (nor released); it is led to the first group after them instead.
    """

    def __init__(self, hooks: Sequence[tuple[nn.Module, Any]], blocks: Callable[[], Iterable[nn.Module]]) -> None:
        self._moved: list[tuple[Any, Any]] = []
        if not any(hook.next_group is not None for _, hook in hooks):
            return
        skipped = {id(m) for block in blocks() for m in block.modules()}
        following = {id(hook.group): hook.next_group for _, hook in hooks}
        inside = {id(hook.group) for m, hook in hooks if id(m) in skipped}
        for _, hook in hooks:
            target = hook.next_group
            if id(target) not in inside or id(hook.group) in inside:
                continue
            while id(target) in inside:
                target = following[id(target)]
            self._moved.append((hook, hook.next_group))
            hook.next_group = target

    def undo(self) -> None:
        for hook, group in self._moved:
            hook.next_group = group
        self._moved = []
