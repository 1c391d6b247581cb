"""How a session reaches one transformer, and how it leaves it exactly as it was.

Everything hung on the model is inert without its session: a copied or saved model is a plain model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from c4d.core.offload import offload_hooks
from c4d.core.stack import BlockStack
from c4d.core.types import OUTPUT, CacheMethod, ModelSpec, OutputOf, Probe

if TYPE_CHECKING:
    from c4d.core.session import Session


class Hook:
    """A module hook: calls a method of the session with ``data``, or does nothing once the session is gone."""

    def __init__(self, session: Session, call: Callable[..., Any], *data: Any) -> None:
        self._session: Session | None = session
        self._name, self._data = call.__name__, data

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        return None if self._session is None else getattr(self._session, self._name)(*self._data, *args)


class CacheContext:
    """``transformer.cache_context`` for the time of a session: notes the name of the branch, then does as always."""

    def __init__(self, session: Session, transformer: nn.Module) -> None:
        self._session: Session | None = session
        self._transformer = transformer

    @contextmanager
    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        original = getattr(type(self._transformer), "cache_context", None)
        outer = self._session.name if self._session else None
        if self._session:
            self._session.name = name
        try:
            if original is None:
                yield
            else:
                with original(self._transformer, name, *args, **kwargs):
                    yield
        finally:
            if self._session:
                self._session.name = outer


class Forward:
    """A module's ``forward`` for the time of a session, around whatever forward the module had.

    ``before`` is the instance attribute that was there (accelerate and diffusers set one), None if it was the class's.
    """

    def __init__(self, session: Session, module: nn.Module, around: Callable[..., Any]) -> None:
        self._session: Session | None = session
        self._module, self._around = module, around
        self.before = module.__dict__.get("forward")
        while isinstance(self.before, Forward) and self.before._session is None:
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
    def outermost(self) -> bool:
        return self._module.__dict__.get("forward") is self

    def renewed(self) -> Forward:
        """One that is outermost again; this one becomes a pass-through.

        What others unwrapped down to an earlier pass-through of ours wakes up; what they wrapped gets wrapped.
        """
        session, self._session = self._session, None
        assert session is not None
        present = self._module.__dict__.get("forward")
        if isinstance(present, Forward):
            present._session = session
            return present
        return Forward(session, self._module, self._around)

    def remove(self) -> None:
        self._session = None  # whoever wrapped this forward meanwhile keeps a plain pass-through
        if not self.outermost:
            return
        if self.before is None:
            del self._module.__dict__["forward"]
        else:
            self._module.forward = self.before

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        plain = object.__new__(Forward)
        memo[id(self)] = plain
        plain._session, plain._around = None, _pass_through
        plain._module, plain.before = copy.deepcopy(self._module, memo), copy.deepcopy(self.before, memo)
        return plain

    def __reduce__(self) -> Any:
        return _plain_forward, (self._module, self.before)


def _pass_through(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return original(*args, **kwargs)


def _plain_forward(module: nn.Module, before: Any) -> Forward:
    plain = object.__new__(Forward)
    plain._session, plain._module, plain._around, plain.before = None, module, _pass_through, before
    return plain


class Attachment:
    """One transformer in a session."""

    def __init__(self, session: Session, transformer: nn.Module, spec: ModelSpec, expert: int) -> None:
        self.transformer, self.spec, self._session, self._expert = transformer, spec, session, expert
        self._stacks: list[BlockStack] = []
        self._forwards: dict[str, Forward] = {}
        self._handles: list[Any] = []
        self.offloaded: list[tuple[nn.Module, Any]] = []
        self._context: CacheContext | None = None
        self._context_before: Any = None

    def install(self, method: CacheMethod) -> None:
        session, transformer = self._session, self.transformer
        try:
            for stack in self.spec.stacks:
                blocks = transformer.get_submodule(stack.path)
                BlockStack.adopt(blocks, stack, session.plan)
                self._stacks.append(blocks)  # type: ignore[arg-type]
            self._context_before = transformer.__dict__.get("cache_context")
            self._context = CacheContext(session, transformer)
            transformer.__dict__["cache_context"] = self._context
            add = self._handles.append
            add(transformer.register_forward_pre_hook(Hook(session, session.enter, self._expert), with_kwargs=True))
            add(transformer.register_forward_hook(Hook(session, session.leave), always_call=True))
            door = transformer.get_submodule(self.spec.exit)
            add(door.register_forward_pre_hook(Hook(session, session.exit), with_kwargs=True))
            for probe in {p for rule in method.rules for p in rule.policy.probes}:
                signal = self.spec.signals.get(probe)
                if isinstance(signal, OutputOf):
                    module = transformer.get_submodule(signal.module)
                    add(module.register_forward_hook(Hook(session, session.signal, probe, signal.read)))
            self.refresh(method)
        except BaseException:
            self.remove()
            raise

    def refresh(self, method: CacheMethod) -> None:
        """Hooks the module sites, again where the model's modules were exchanged (LoRA injection replaces some)."""
        self.offloaded = offload_hooks(self.transformer)
        for path, around in self._wanted(method).items():
            module = self.transformer.get_submodule(path)
            held = self._forwards.get(path)
            if held is not None and held._module is module:
                continue
            if held is not None:
                held.remove()
            self._forwards[path] = Forward(self._session, module, around)

    def take_hold(self) -> None:
        """After a pass: back in front of forwards that an offload hook, coming or going, has exchanged.

        Not before a pass: the call under way has looked its forward up already, and that one must stay awake.
        """
        for path, forward in self._forwards.items():
            if not forward.outermost:
                self._forwards[path] = forward.renewed()

    def wake(self) -> None:
        """Before a pass: forwards of ours that others have unwrapped are at work again."""
        for path, forward in self._forwards.items():
            if not forward.outermost and isinstance(forward._module.__dict__.get("forward"), Forward):
                self._forwards[path] = forward.renewed()

    def taken(self) -> bool:
        """True if a session is at work on this transformer."""
        context = self.transformer.__dict__.get("cache_context")
        return isinstance(context, CacheContext) and context._session is not None

    def _wanted(self, method: CacheMethod) -> dict[str, Callable[..., Any]]:
        kinds = {kind for rule in method.rules for kind in rule.at}
        wanted: dict[str, Callable[..., Any]] = {"": site_forward(OUTPUT, "")} if OUTPUT in kinds else {}
        for stack in self.spec.stacks:
            for i in range(len(self.transformer.get_submodule(stack.path))):  # type: ignore[arg-type]
                for kind, sites in stack.sites.items():
                    if kind not in kinds:
                        continue
                    for site in sites:
                        path = f"{stack.path}.{i}.{site.output}".rstrip(".")
                        wanted[path] = site_forward(kind, path)
                        for bypassed, filler in site.bypasses.items():
                            wanted[f"{stack.path}.{i}.{bypassed}"] = filler_forward(kind, path, filler)
        return wanted

    def blocks(self) -> list[nn.Module]:
        return [block for stack in self._stacks for block in stack._modules.values() if block is not None]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for forward in self._forwards.values():
            forward.remove()
        for stack in self._stacks:
            stack.restore()
        if self._context is not None:
            self._context._session = None
            if self.transformer.__dict__.get("cache_context") is self._context:
                del self.transformer.__dict__["cache_context"]
                if self._context_before is not None:
                    self.transformer.__dict__["cache_context"] = self._context_before
        self._handles, self._stacks, self._forwards = [], [], {}


def is_compiled(module: nn.Module) -> bool:
    """True if ``module.compile()`` was called."""
    return getattr(module, "_compiled_call_impl", None) is not None


def site_forward(kind: str, path: str) -> Callable[..., Any]:
    """Around the forward of a cached module."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return current.at_site(kind, path, lambda: original(*args, **kwargs))

    return around


def filler_forward(kind: str, path: str, filler: Callable[..., Any]) -> Callable[..., Any]:
    """Around the forward of a module that the reuse of site ``path`` bypasses."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return filler(*args, **kwargs) if current.bypasses(kind, path) else original(*args, **kwargs)

    return around


def check_fit(method: CacheMethod, spec: ModelSpec) -> None:
    """Raises ValueError, naming what the model offers, if the method would hook nothing or measure what it lacks."""
    for rule in method.rules:
        if not set(rule.at) & set(spec.kinds()):
            raise ValueError(
                f"{method.name} caches at {', '.join(rule.at)}, but {spec.transformer} offers {', '.join(spec.kinds())}"
            )
        lacking: set[Probe] = set(rule.policy.probes) - set(spec.probes())
        if lacking:
            raise ValueError(
                f"{method.name} measures {', '.join(sorted(p.value for p in lacking))}, but {spec.transformer} offers "
                f"{', '.join(p.value for p in spec.probes())}"
            )
