"""What a session hangs on a model. All of it is inert without its session: a copied or saved model is a plain model."""

from __future__ import annotations

import copy
import enum
import inspect
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from torch import nn


def parameters(module: nn.Module) -> list[str]:
    """The names of its forward's arguments, in their order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def named(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward by name."""
    return {**dict(zip(parameters(module), args, strict=False)), **kwargs}


class Listener(Protocol):
    """What a hook tells of (the session)."""

    name: str | None
    current: Any

    def enter(self, expert: int, args: Any, kwargs: Any) -> None: ...
    def leave(self, args: Any, output: Any) -> None: ...
    def exit(self, stream: str, args: Any, kwargs: Any) -> Any: ...
    def read_signal(self, signal: Any, read: Any, args: Any, output: Any) -> None: ...
    def plan(self, stack: Any, blocks: Any) -> Any: ...


class Turn(Protocol):
    """Whose forwards a patch belongs to; ``current`` is None while they are to run as they are."""

    current: Any


class Unsaved:
    """A mixin: in a copy or a pickle of the model it is None."""

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()


class Entered:
    """What does nothing until its ``with`` block: says so if dropped without one. ``unused``: who made it."""

    unused: str | None = None

    def __del__(self) -> None:
        if self.unused is not None:
            warnings.warn(
                f"what {self.unused}(…) gave was never entered, and so did nothing: with {self.unused}(…): …",
                RuntimeWarning,
                stacklevel=2,
            )


class Layer(enum.IntEnum):
    """The order of c4d's hooks around a forward, whoever enters first. Each sees what those before it have made."""

    TIMING = 0  # what all others do counts as part of the forward
    BRANCHES = 1  # whose call it is: no other layer is to act on a call that another group of ranks makes
    AGREEMENT = 2  # all ranks make the same call: before the first of them waits for another one inside the forward
    POSITIONS = 3  # where a block of frames stands in its clip: of all tokens, before a rank gets its own
    SHARDING = 4  # this rank's tokens: trimming and caching then see the part that its blocks see
    ATTENTION = 5  # text without its padding, kernels chosen; hooks of others come after and see what the forward gets
    CACHE = 6  # behind the hooks of others: it decides by what the forward is really called with


class Hook:
    """A module hook: calls the bound method ``call`` with ``data``, or nothing once whose method it is has gone."""

    def __init__(self, layer: Layer, call: Callable[..., Any], *data: Any) -> None:
        self._session: object | None = call.__self__  # type: ignore[attr-defined]
        self.layer, self._name, self._data = layer, call.__name__, data

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        return None if self._session is None else getattr(self._session, self._name)(*self._data, *args)


Owner = TypeVar("Owner")


def at_work(module: nn.Module, kind: type[Owner]) -> Owner | None:
    """The first of this kind whose hooks stand before the forward of ``module``; None if there is none."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, Hook) and isinstance(hook._session, kind):
            return hook._session
    return None


class Hooks:
    """Hooks on a model that call methods, in the place of their ``layer``, until all are taken off together.

    It does not know whose methods they are. Else an owner that has it would keep its model until the next collection.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._handles: list[Any] = []

    def before(self, module: nn.Module, call: Callable[..., Any], *data: Any) -> None:
        """``call(*data, args, kwargs)`` before its forward; what it returns takes their place."""
        hook = Hook(self._layer, call, *data)
        handle = module.register_forward_pre_hook(hook, prepend=self._layer < Layer.CACHE, with_kwargs=True)
        self._keep(handle, module._forward_pre_hooks)

    def after(
        self, module: nn.Module, call: Callable[..., Any], *data: Any, first: bool = False, always: bool = False
    ) -> None:
        """``call(*data, args, output)`` after its forward; what it returns, if not None, takes the output's place.

        ``first`` of all hooks, so that others see that; ``always``, also after a forward that raised (output None).
        """
        hook = Hook(self._layer, call, *data)
        handle = module.register_forward_hook(hook, prepend=first, always_call=always)
        self._keep(handle, module._forward_hooks if first else None)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _keep(self, handle: Any, table: Any) -> None:
        """Notes ``handle``; in ``table``, torch's ordered one of hooks, those of earlier layers go in front of it."""
        self._handles.append(handle)
        if table is not None and self._layer < Layer.CACHE:
            earlier = [key for key, hook in table.items() if isinstance(hook, Hook) and hook.layer < self._layer]
            for key in reversed(earlier):
                table.move_to_end(key, last=False)


class CacheContext:
    """``transformer.cache_context`` for the time of a session: notes the name of the branch, then does as always."""

    def __init__(self, session: Listener, transformer: nn.Module) -> None:
        self._session: Listener | None = session
        self._transformer = transformer

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        original = getattr(type(self._transformer), "cache_context", None)
        inner = nullcontext() if original is None else original(self._transformer, name, *args, **kwargs)
        return inner if self._session is None else _Named(self._session, name, inner)


class _Named(AbstractContextManager[None]):
    """``inner``, and for its time the name of a branch."""

    def __init__(self, session: Listener, name: str, inner: AbstractContextManager[None]) -> None:
        self._session, self._name, self._inner = session, name, inner

    def __enter__(self) -> None:
        self._outer, self._session.name = self._session.name, self._name
        try:
            self._inner.__enter__()
        except BaseException:
            self._session.name = self._outer
            raise

    def __exit__(self, *exc: Any) -> bool | None:
        try:
            return self._inner.__exit__(*exc)
        finally:
            self._session.name = self._outer


class ForwardPatch:
    """A module's ``forward`` for the time of a session, around whatever forward the module had.

    ``before`` is the instance attribute that was there (accelerate and diffusers set one), None if it was the class's.
    """

    def __init__(self, session: Turn, module: nn.Module, around: Callable[..., Any]) -> None:
        self._session: Turn | None = session
        self._owner = weakref.ref(session)  # also when it is only a pass-through
        self._module, self._around = module, around
        self.before = module.__dict__.get("forward")
        while isinstance(self.before, ForwardPatch) and self.before._session is None:
            self.before = self.before.before  # left by a session that others had wrapped when it ended
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._session is None or self._session.current is None:
            return self.original(*args, **kwargs)
        return self._around(self._session.current, self.original, args, kwargs)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(self._module).forward(self._module, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the forward it is around: modular pipelines ask for it, and pass what is in it."""
        return inspect.signature(self.before or type(self._module).forward.__get__(self._module))

    @property
    def outermost(self) -> bool:
        """True if nothing is around it but other forwards of this kind."""
        return self in self._chain()

    def _chain(self) -> list[ForwardPatch]:
        """From the module's forward inwards, as far as they are of this kind."""
        chain, at = [], self._module.__dict__.get("forward")
        while isinstance(at, ForwardPatch):
            chain.append(at)
            at = at.before
        return chain

    def renewed(self) -> ForwardPatch:
        """One that is outermost again; this one becomes a pass-through.

        What others unwrapped down to an earlier pass-through of ours wakes up; what they wrapped gets wrapped.
        """
        session, self._session = self._session, None
        assert session is not None
        present = self._module.__dict__.get("forward")
        if isinstance(present, ForwardPatch) and present._session is None and present._owner() is session:
            present._session = session
            return present
        return ForwardPatch(session, self._module, self._around)

    def remove(self) -> None:
        self._session = None  # whoever wrapped this forward meanwhile keeps a plain pass-through
        chain = self._chain()
        if self not in chain:
            return
        if chain[0] is not self:
            chain[chain.index(self) - 1].before = self.before
        elif self.before is None:
            del self._module.__dict__["forward"]
        else:
            self._module.forward = self.before

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        plain = memo[id(self)] = _plain_forward(self._module, self.before)  # known before its module is copied
        plain._module, plain.before = copy.deepcopy(self._module, memo), copy.deepcopy(self.before, memo)
        return plain

    def __reduce__(self) -> Any:
        return _plain_forward, (self._module, self.before)


def pass_through(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return original(*args, **kwargs)


def _plain_forward(module: nn.Module, before: Any) -> ForwardPatch:
    plain = object.__new__(ForwardPatch)
    plain._session, plain._module, plain._around, plain.before = None, module, pass_through, before
    plain._owner = weakref.ref(plain)  # type: ignore[arg-type]
    return plain
