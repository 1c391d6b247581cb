"""How a session reaches one transformer, and how it leaves it exactly as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from c4d.core.caching.rules import (
    BlocksRule,
    CacheMethod,
    GuidanceRule,
    ModuleRule,
    OutputRule,
    Rule,
    TokenRule,
    moves,
)
from c4d.core.caching.selectors import READ, SCORES
from c4d.core.integration.blocks import BlockStack
from c4d.core.integration.hooks import CacheContext, ForwardPatch, Hooks, Layer, Listener, named, pass_through
from c4d.core.integration.offload import offload_hooks
from c4d.core.spec import ModelSpec, OutputOf, Site, Stack
from c4d.core.types import BLOCKS, GUIDANCE, OUTPUT, DraftPolicy, FeatureForecaster, Signal


class ModuleSite(NamedTuple):
    """Where a cached module stands: the number of the rule that holds for it, and the key of its history.

    ``rows``: some of its tokens can be computed alone. They are those of the ``stream``, which is the same in all
    blocks of the ``stack``, and of the ``streams`` of its ``block``; ``depth`` is 0 in the first block and 1 in the
    last, which is the ``last`` of the stream.
    """

    rule: int
    key: str
    rows: bool = False
    stream: str = ""
    stack: Stack | None = None
    depth: float = 0.0
    last: bool = False
    block: str = ""
    streams: tuple[str, ...] = ()


class Attachment:
    """One transformer in a session."""

    def __init__(self, session: Listener, transformer: nn.Module, spec: ModelSpec, expert: int) -> None:
        self.transformer, self.spec, self._session, self._expert = transformer, spec, session, expert
        self._stacks: list[BlockStack] = []
        self._forwards: dict[str, ForwardPatch] = {}
        self._hooks = Hooks(Layer.CACHE)
        self.offloaded: list[tuple[nn.Module, Any]] = []
        self._context: CacheContext | None = None
        self._context_before: Any = None
        self.attached = False

    def install(self, method: CacheMethod) -> None:
        """Hangs the session on the model; if it raises half-way, :meth:`remove` takes off what is there."""
        session, transformer = self._session, self.transformer
        self.attached = True
        self._check_paths()
        self._check_blocks(method)
        self._check_sites(method)
        for stack in self.spec.stacks:
            blocks = transformer.get_submodule(stack.path)
            BlockStack.adopt(blocks, stack, session.plan)
            self._stacks.append(blocks)  # type: ignore[arg-type]
        self._context_before = transformer.__dict__.get("cache_context")
        self._context = CacheContext(session, transformer)
        transformer.__dict__["cache_context"] = self._context
        self._hooks.before(transformer, session.enter, self._expert)
        self._hooks.after(transformer, session.leave, always=True)
        for stream, path in self.spec.exits.items():
            self._hooks.before(transformer.get_submodule(path), session.exit, stream)
        for signal in method.signals:
            reader = self.spec.signals.get(signal)
            if isinstance(reader, OutputOf):
                self._hooks.after(transformer.get_submodule(reader.module), session.read_signal, signal, reader.read)
        self.refresh(method)

    def _check_paths(self) -> None:
        """Raises ValueError for a module that the spec names and the model has not."""
        there = dict(self.transformer.named_modules())
        exits = [(path, "exit=" if path == self.spec.exit else "other_exits=") for path in self.spec.exits.values()]
        for path, where in [*exits, *((stack.path, "a Stack") for stack in self.spec.stacks)]:
            if path not in there:
                parts = ", ".join(name for name, _ in self.transformer.named_children())
                raise ValueError(
                    f"the spec of {self.spec.transformer} names a module {path!r} ({where}), which "
                    f"{type(self.transformer).__name__} has not: it has {parts}"
                )

    def _check_blocks(self, method: CacheMethod) -> None:
        rule, chain = method.whole, self.spec.chain
        counts = [len(list(self.transformer.get_submodule(stack.path).children())) for stack in chain]
        there = sum(counts)
        if not isinstance(rule, BlocksRule) or not (rule.first_blocks or rule.last_blocks):
            return
        if chain[0].joined != chain[-1].joined and (rule.last_blocks or rule.first_blocks > counts[0]):
            raise ValueError(
                f"{method.name}: in {chain[-1].path!r} of {self.spec.transformer} text and image are one sequence, and "
                f"a forecast cannot begin in {chain[0].path!r} and end there: use last_blocks=0 and first_blocks of at "
                f"most {counts[0]}"
            )
        if self.spec.long_skips and rule.last_blocks:
            raise ValueError(
                f"{method.name}: the last blocks of {self.spec.transformer} read what earlier ones returned, and "
                "cannot run without those: use last_blocks=0"
            )
        at = {place for first, last in rule.ends for place in (first - 1, there - last)}
        if passed_by := sorted(at.intersection(self.spec.left_out)):
            raise ValueError(
                f"{method.name}: some calls of {self.spec.transformer} pass by its block {passed_by[0]} (from 0), so "
                f"that what is skipped can neither begin behind it nor end before it: use one block more or less than "
                f"first_blocks={rule.first_blocks} and last_blocks={rule.last_blocks}"
            )
        if max(map(sum, rule.ends)) >= there:
            raise ValueError(
                f"{method.name}: first_blocks={rule.first_blocks} and last_blocks={rule.last_blocks} leave none of the "
                f"{there} blocks of {self.spec.transformer} to skip"
            )

    def _check_sites(self, method: CacheMethod) -> None:
        """Raises ValueError for a rule for modules that no block of this model was made with."""
        for rule in method.rules:
            if isinstance(rule, ModuleRule) and next(self._sites(rule.sites), None) is None:
                raise ValueError(
                    f"{method.name} caches at {', '.join(rule.sites)}, and this {self.spec.transformer} was made "
                    "without that"
                )

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
            self._forwards[path] = ForwardPatch(self._session, module, around)

    def conditioning(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a forward besides its latents and its timestep, by name."""
        given = named(self.transformer, args, kwargs)
        own = (*self.spec.denoised, self.spec.timestep)
        return {n: x for n, x in given.items() if isinstance(x, Tensor) and n not in own}

    def take_hold(self) -> None:
        """After a forward: back in front of forwards that an offload hook, coming or going, has exchanged.

        Not before a forward: the call under way has looked its forward up already, and that one must stay awake.
        """
        for path, forward in self._forwards.items():
            if not forward.outermost:
                self._forwards[path] = forward.renewed()

    def wake(self) -> None:
        """Before a forward: forwards of ours that others have unwrapped are at work again."""
        for path, forward in self._forwards.items():
            if not forward.outermost and isinstance(forward._module.__dict__.get("forward"), ForwardPatch):
                self._forwards[path] = forward.renewed()

    def taken(self) -> bool:
        """True if a session is at work on this transformer."""
        return session_of(self.transformer) is not None

    def refuse(self, method: CacheMethod) -> None:
        """Raises RuntimeError for a model that another system caches, or that is compiled so that ``method`` cannot
        act."""
        if foreign := other_cache(self.transformer):
            raise RuntimeError(
                f"{type(self.transformer).__name__} is cached by {foreign[0]} too, and of two caches one "
                f"forecasts what the other has forecast: end that one, {foreign[1]}"
            )
        if is_compiled(self.transformer):
            raise RuntimeError(
                f"{type(self.transformer).__name__} is compiled as a whole, which would freeze one decision into the "
                "graph: compile its blocks instead (transformer.compile_repeated_blocks(fullgraph=True), or --compile)"
            )
        if method.inside and any(is_compiled(block) for block in self.blocks()):
            raise RuntimeError(
                f"{method.name} acts inside the blocks (at {', '.join(method.sites)}), "
                "which are compiled: use the method at @blocks, or do not compile"
            )

    def refuse_recomputed(self, method: CacheMethod) -> None:
        """Before a forward: raises RuntimeError if backward would run its blocks again, where no decision is known."""
        again = torch.is_grad_enabled() and getattr(self.transformer, "gradient_checkpointing", False)
        if again and method.inside:
            raise RuntimeError(
                f"{method.name} acts inside the blocks (at {', '.join(method.sites)}), "
                "and gradient checkpointing runs them again on the way back, without its decisions: make rollouts "
                "under torch.no_grad(), call transformer.disable_gradient_checkpointing(), or use a method at @blocks"
            )

    def _wanted(self, method: CacheMethod) -> dict[str, Callable[..., Any]]:
        rules = {kind: index for index, rule in enumerate(method.rules) for kind in rule.sites}
        wanted: dict[str, Callable[..., Any]] = {}
        if OUTPUT in rules:
            wanted[""] = site_forward(ModuleSite(rules[OUTPUT], OUTPUT))
        if any(isinstance(rule.policy, DraftPolicy) and rule.policy.strict for rule in method.rules):
            wanted[""] = settled_forward
        if GUIDANCE in rules:
            wanted[""] = guided_forward(ModuleSite(rules[GUIDANCE], GUIDANCE), wanted.get("", pass_through))
        found = list(self._sites(rules))
        last = {(stack.path, kind, site.output): i for stack, i, _, kind, site in found}
        for stack, i, number, kind, site in found:
            block, rule = f"{stack.path}.{i}", method.rules[rules[kind]]
            if not _reaches(rule, number):
                continue
            path = f"{block}.{site.output}".rstrip(".")
            rows = isinstance(rule, TokenRule) and kind in rule.rows and site.partial
            ends = last[stack.path, kind, site.output]
            where = (f"{stack.path}.{site.output}", stack, i / max(1, ends), i == ends, block, site.streams)
            place = ModuleSite(rules[kind], f"{kind}:{path}", rows, *where)
            wanted[path] = tokens_forward(place) if rows else site_forward(place)
            for bypassed, filler in site.bypasses.items():
                wanted[f"{block}.{bypassed}"] = filler_forward(place, filler)
        wanted.update(self._watched(method, wanted))
        return wanted

    def _watched(
        self, method: CacheMethod, wanted: Mapping[str, Callable[..., Any]]
    ) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The self-attentions by which tokens of their blocks are weighed, around what is ``wanted`` there."""
        for number, rule in enumerate(method.rules):
            for stack in self.spec.stacks if isinstance(rule, TokenRule) and rule.select.reads else ():
                for i in range(len(self.transformer.get_submodule(stack.path)) if _picks(rule, stack) else 0):  # type: ignore[arg-type]
                    block = f"{stack.path}.{i}"
                    path = f"{block}.{stack.self_attention}"
                    if not self._lacks(path):
                        place = ModuleSite(number, path, block=block)
                        yield path, watched_forward(place, wanted.get(path, pass_through))

    def _sites(self, kinds: Collection[str]) -> Iterator[tuple[Stack, int, int, str, Site]]:
        """The stack, the number of the block in it and in the chain, the kind and the site of each, but of those that a
        block was made without."""
        passed = 0  # blocks of the chain before this one
        for stack in self.spec.stacks:
            for i in range(len(self.transformer.get_submodule(stack.path))):  # type: ignore[arg-type]
                block, number, passed = f"{stack.path}.{i}", passed, passed + (stack in self.spec.chain)
                for kind in (kind for kind in stack.sites if kind in kinds):
                    there = (site for site in stack.sites[kind] if not self._lacks(f"{block}.{site.output}"))
                    yield from ((stack, i, number, kind, site) for site in there)

    def _lacks(self, path: str) -> bool:
        """True if None stands there in place of a module."""
        parent, _, name = path.rpartition(".")
        return bool(name) and getattr(self.transformer.get_submodule(parent), name, self) is None

    def blocks(self) -> list[nn.Module]:
        return [block for stack in self._stacks for block in stack._modules.values() if block is not None]

    def remove(self) -> None:
        self._hooks.remove()
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
        self._stacks, self._forwards, self.attached = [], {}, False


def _reaches(rule: Rule, number: int) -> bool:
    """Whether a rule for modules holds in the block of this number."""
    return not isinstance(rule, ModuleRule) or rule.leading is None or number < rule.leading


def _picks(rule: Rule, stack: Stack) -> bool:
    """Whether modules in the blocks of ``stack`` compute some of their tokens."""
    kinds = set(rule.rows) & set(rule.kinds) if isinstance(rule, TokenRule) else ()
    return any(site.partial for kind in kinds for site in stack.sites.get(kind, ()))


def session_of(transformer: nn.Module) -> Any:
    """The session that is at work on it, None if there is none."""
    context = transformer.__dict__.get("cache_context")
    return context._session if isinstance(context, CacheContext) else None


def other_cache(transformer: nn.Module) -> tuple[str, str] | None:
    """Another system's cache that is at work on it, and how it is ended; None if there is none."""
    if (config := transformer.__dict__.get("_cache_config")) is not None:
        return f"diffusers ({type(config).__name__})", "transformer.disable_cache()"
    if transformer.__dict__.get("_is_cached"):
        return "cache-dit", "cache_dit.disable_cache(pipe)"
    return None


def is_compiled(module: nn.Module) -> bool:
    """True if ``module.compile()`` was called."""
    return getattr(module, "_compiled_call_impl", None) is not None


def site_forward(place: ModuleSite) -> Callable[..., Any]:
    """Around the forward of a cached module."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return current.at_site(place, original, args, kwargs)

    return around


def tokens_forward(place: ModuleSite) -> Callable[..., Any]:
    """Around the forward of a cached module that can compute some of its tokens."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return current.at_tokens(place, original, args, kwargs)

    return around


def watched_forward(place: ModuleSite, inner: Callable[..., Any]) -> Callable[..., Any]:
    """Around the forward of a self-attention, ``inner`` and all, by which the tokens of its block are weighed."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        return current.at_attention(place, x, lambda: inner(current, original, args, kwargs))

    return around


def settled_forward(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Around the forward of a transformer whose draft may be rejected: then it runs again."""
    return current.settled(lambda: original(*args, **kwargs))


def guided_forward(place: ModuleSite, inner: Callable[..., Any]) -> Callable[..., Any]:
    """Around the forward of a transformer, ``inner`` and all, whose calls without condition may be spared."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return current.guided(place, inner, original, args, kwargs)

    return around


def filler_forward(place: ModuleSite, filler: Callable[..., Any]) -> Callable[..., Any]:
    """Around the forward of a module that the reuse of the site at ``place`` bypasses."""

    def around(current: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return filler(*args, **kwargs) if current.reuses(place) else original(*args, **kwargs)

    return around


def check_fit(method: CacheMethod, spec: ModelSpec) -> None:
    """Raises ValueError, naming what the model offers, if the method would hook nothing or measure what it lacks."""
    for rule in method.rules:
        if not isinstance(rule, GuidanceRule) and not set(rule.sites) & set(spec.kinds()):
            moved = f"use {OUTPUT!r} (…@{OUTPUT}), or describe them (spec=)"
            kept = f"describe them (spec=, c4d check-model), or take a method that goes at the {OUTPUT} (c4d methods)"
            out = f", for its blocks are not described: {moved if moves(method.rules, OUTPUT) else kept}"
            raise ValueError(
                f"{method.name} caches at {', '.join(rule.sites)}, but {spec.transformer} offers "
                f"{', '.join(spec.kinds())}{'' if spec.stacks else out}"
            )
        if isinstance(rule, BlocksRule) and method.batch in ("each", "worst") and not spec.batch_first:
            raise ValueError(
                f"{method.name}: what comes to the blocks of {spec.transformer} has no row for each of the batch, and "
                f"samples cannot decide apart there: use batch=mean, or the method @{OUTPUT}"
            )
        if isinstance(rule, OutputRule) and rule.residual and not spec.like_latents:
            raise ValueError(
                f"{method.name} stores outputs minus latents, but the output of {spec.transformer} is not like "
                f"them: use @{BLOCKS}"
            )
        if isinstance(rule.forecast, FeatureForecaster) and rule.forecast.needs_grid and spec.grid is None:
            raise ValueError(
                f"{method.name} works on the grid of tokens, which the spec of {spec.transformer} does not tell (grid=)"
            )
        if isinstance(rule, TokenRule):
            _check_selector(rule, method.name, spec)
        if isinstance(rule.forecast, FeatureForecaster) and rule.forecast.one_stream and spec.other_exits:
            raise ValueError(
                f"{method.name} is for the hidden state alone, and the blocks of {spec.transformer} return "
                f"{', '.join(spec.other_exits)}, too: use another method"
            )
        lacking: set[Signal] = set(rule.policy.signals) - set(spec.measurable())
        if lacking:
            raise ValueError(
                f"{method.name} measures {', '.join(sorted(p.value for p in lacking))}, but {spec.transformer} offers "
                f"{', '.join(p.value for p in spec.measurable())}"
            )


def _check_selector(rule: TokenRule, name: str, spec: ModelSpec) -> None:
    """The same for what tokens are picked by."""
    if rule.select.framed and spec.grid is None:
        raise ValueError(
            f"{name} takes each frame by itself, and the spec of {spec.transformer} does not tell the grid that tokens "
            "lie in (grid=): use frames=together"
        )
    if rule.select.cell and spec.grid is None:
        raise ValueError(
            f"{name} compares tokens in cells of their grid, which the spec of {spec.transformer} does not "
            "tell (grid=): use bonus=0"
        )
    for stack in spec.stacks if rule.select.reads else ():
        if _picks(rule, stack) and stack.self_attention is None:
            known = " and ".join(score for score in SCORES if score not in READ)
            raise ValueError(
                f"{name} weighs tokens by the {rule.select.reads} of the one self-attention in their block, which the "
                f"spec of {spec.transformer} does not describe in {stack.path!r} (Stack(attention=…)): the scores "
                f"that it knows are {known}"
            )
