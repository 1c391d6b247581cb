"""The first point of the seam: the model's own ModuleLists, whose loops yield the blocks, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from c4d.core.spec import Stack

Plan = Callable[[Stack, list[nn.Module]], Iterator[Any]]


class BlockStack(nn.ModuleList):
    """A ``nn.ModuleList`` for the time of a session: iterating it, or a slice of it, asks the plan what this forward
    runs.

    Modules, names, parameters and length stay those of the list, and so does what stands at a number, but in an
    interleaved stack. A copy or a pickle of it is a plain list.
    """

    _plan: Plan | None = None
    _stack: Stack | None = None

    @staticmethod
    def adopt(blocks: nn.Module, stack: Stack, plan: Plan) -> None:
        if type(blocks) is not nn.ModuleList:
            raise TypeError(f"{stack.path!r} is a {type(blocks).__name__}; a stack must be a plain torch.nn.ModuleList")
        blocks.__class__ = BlockStack
        blocks._stack, blocks._plan = stack, plan  # type: ignore[assignment]

    def restore(self) -> None:
        del self._plan, self._stack
        self.__class__ = nn.ModuleList  # type: ignore[assignment]

    def __iter__(self) -> Iterator[nn.Module]:
        blocks = list(self._modules.values())
        return iter(blocks) if self._plan is None else self._plan(self._stack, blocks)  # type: ignore[arg-type]

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if self._plan is None or self._stack is None:
            return found
        if isinstance(found, BlockStack):
            found._plan, found._stack = self._plan, self._stack
        elif self._stack.interleaved:
            return next(self._plan(self._stack, [found]))
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_plan", "_stack")}
        return nn.ModuleList, (), state


class BlockProxy:
    """Takes a block's place in the loop for one forward; attributes are those of the block."""

    def __init__(self, block: nn.Module, call: Callable[..., Any]) -> None:
        self._block, self._call = block, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._block, args, kwargs)


def bind(stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A block call's arguments under the stack's stream names."""
    named = dict(zip(stack.takes, args, strict=False))
    named.update(kwargs)
    if "hidden_states" not in named:
        raise TypeError(
            f"a block of {stack.path!r} was called without hidden_states: got {sorted(named)}. The stream that is "
            "cached has to have that name: in takes= and returns= of the stack where blocks are called by position, "
            "in the block's own arguments where they are called by keyword"
        )
    return named


def unbind(stack: Stack, named: dict[str, Any]) -> Any:
    """The streams as a block of this stack returns them."""
    out = tuple(named[name] for name in stack.returns)
    return out if len(out) > 1 else out[0]


def streams(stack: Stack, out: Any) -> dict[str, Any]:
    """What a block of this stack returned, by the names of its streams."""
    given = out if isinstance(out, tuple) else (out,)
    if len(given) != len(stack.returns):
        raise TypeError(f"a block of {stack.path!r} returned {len(given)} streams; its spec says {stack.returns}")
    return dict(zip(stack.returns, given, strict=True))
