"""An attention session: processors on the attention modules of some transformers while a ``with`` block lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from c4d.core.attention import AttentionPrimitives, AttentionRuntime, Processor, Resolve, changed, compute_dtype
from c4d.core.integration.attach import is_compiled
from c4d.core.integration.hooks import Entered, Hooks, Layer, Unsaved
from c4d.core.integration.padding import TextUnpadder
from c4d.core.spec import ModelSpec, Stack


class ProcessorPatch(Unsaved):
    """One transformer in an attention session. A copied or saved transformer leaves it behind."""

    def __init__(
        self, label: str, transformer: nn.Module, spec: ModelSpec, primitives: AttentionPrimitives, resolve: Resolve
    ) -> None:
        self.label, self.transformer, self.spec = label, transformer, spec
        self._primitives, self._resolve = primitives, resolve
        self.trim: TextUnpadder | None = None
        self._chosen: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._hooks = Hooks(Layer.ATTENTION)
        self._placed: list[tuple[nn.Module, Processor]] = []
        self._entered = False
        self._aside: list[tuple[nn.Module, Processor]] = []  # ours that gave way for the forward under way
        self._perturbed = 0  # how many did in any forward
        self._exchanged: Counter[str] = Counter()  # processors that others put in the place of ours

    def plan(self, kernel: str) -> None:
        """Sorts the declared modules; raises what keeps ``kernel`` from them, before anything is touched."""
        if is_compiled(self.transformer):
            raise RuntimeError(
                f"{type(self.transformer).__name__} is compiled as a whole: compile its blocks instead "
                "(transformer.compile_repeated_blocks(fullgraph=True), or --compile)"
            )
        self._kernel, self._works = kernel, dict[tuple[int, int], AttentionRuntime]()
        self._ours: list[tuple[nn.Module, type[Processor]]] = []
        self._left: Counter[str] = Counter()
        declared = self._declared()
        named = {id(module) for _, module, _ in declared}
        blocks = [self.transformer.get_submodule(stack.path) for stack in self.spec.stacks]
        others = [each for block in blocks for each in block.modules() if id(each) not in named]
        processors = [there for each in others if (there := getattr(each, "processor", None)) is not None]
        self.unnamed = Counter(type(there).__name__ for there in processors)  # attentions that the spec does not name
        for path, module, cls in declared:
            if isinstance(there := getattr(module, "processor", None), Processor):
                raise RuntimeError(
                    f"the attentions of {self.label} are in a c4d.attention, c4d.sharded or c4d.attention_maps "
                    "already: leave that one first (c4d.sharded has kernel= of its own; c4d.attention_maps is entered "
                    "last)"
                )
            strange = changed(there, cls.replaces)
            if strange is None:
                self._ours.append((module, cls))
                self._works.setdefault(cls.heads_of(module), AttentionRuntime(self._primitives, kernel))
            elif kernel == "auto":
                self._left[strange] += 1
            else:
                raise ValueError(
                    f"attention kernel {kernel!r} is to run in every attention, but {self.label}.{path} has the "
                    f"processor {strange}; give it its stock processor again, or use 'auto', which leaves it alone"
                )
        if not self._ours and not self._left and kernel != "auto":
            raise ValueError(
                f"attention kernel {kernel!r} has nowhere to run: the spec of {self.spec.transformer} declares no "
                "attention (docs/adding_a_model.md)"
            )
        self._names = {self._attend(compute_dtype(None, self.transformer), heads, False)[0] for heads in self._works}

    def install(self) -> None:
        if not self._ours:
            return
        self.trim = TextUnpadder(self.spec.padding, self.transformer) if self.spec.padding else None
        self._hooks.before(self.transformer, self.enter)
        self._hooks.after(self.transformer, self.leave, always=True)
        for module, cls in self._ours:
            processor = cls(self._works[cls.heads_of(module)], module.processor)
            self._placed.append((module, processor))
            module.processor = processor  # type: ignore[assignment]

    def remove(self) -> None:
        self._hooks.remove()
        self._give_back()
        self._look()
        for module, processor in self._placed:
            processor.work.reset()
            if module.__dict__.get("processor") is processor:
                module.processor = processor.before
        self._placed = []

    @property
    def works(self) -> list[AttentionRuntime]:
        return list(self._works.values())

    @property
    def heads_of(self) -> list[tuple[int, int]]:
        """How many heads its attentions have, and of what size."""
        return list(self._works)

    @property
    def to_themselves(self) -> list[Processor]:
        """The processors at work of the blocks' self-attentions, in the order of the blocks."""
        inner = {path for stack in self.spec.stacks if (path := stack.self_attention) is not None}
        ours = {id(module) for path, module, _ in self._declared() if any(path.endswith("." + each) for each in inner)}
        return [processor for module, processor in self._placed if id(module) in ours]

    @property
    def merges(self) -> bool:
        """Whether an attention needs partial results wherever tokens are spread over ranks."""
        return any(cls.merges for _, cls in self._ours)

    @property
    def left(self) -> list[str]:
        """Attentions whose processor is another one than ours now, by the name of its class."""
        self._look()
        return [*self._left, *self._exchanged]

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a forward: padding goes, kernels are chosen."""
        self._entered = True
        self._give_back()
        self._look()
        if self._exchanged and self._kernel != "auto":
            raise RuntimeError(
                f"attention kernel {self._kernel!r} is to run in every attention, but {self.label} was given other "
                f"processors ({', '.join(self._exchanged)}) inside the with block; leave it before exchanging them"
            )
        self._give_way()
        absent, masked = None, False
        if self.trim is not None:
            if not (self._left or self._exchanged):  # a processor of others may count on the text as it came
                (args, kwargs), absent = self.trim(args, kwargs)
            masked = absent is None and self.trim.masked(args, kwargs)
        dtype = compute_dtype(args[0] if args else kwargs.get("hidden_states"), self.transformer)
        names = set()
        for heads, work in self._works.items():
            work.reset()
            name, plain = self._attend(dtype, heads, False)
            names.add(name)
            if masked:
                name, of_keys = self._attend(dtype, heads, True)
                names.add(name)
                work.select(plain, of_keys)
            else:
                work.select(plain, absent=absent)
        self._names = names
        return args, kwargs

    @contextmanager
    def on(self, rows: Sequence[int]) -> Iterator[None]:
        """While these samples of the batch alone are computed."""
        for work in self._works.values():
            work.rows = rows
        try:
            yield
        finally:
            for work in self._works.values():
                work.rows = None

    def _give_way(self) -> None:
        """For one forward, where a guider perturbs attention: it counts on the stock processor."""
        perturbed = [pair for pair in self._placed if is_perturbed(pair[0])]
        if perturbed and (self._kernel != "auto" or any(work.spread for work in self.works)):
            raise RuntimeError(
                f"{len(perturbed)} attentions of {self.label} are perturbed by a guider (skip_attention_scores), which "
                "takes their own processors: leave c4d.attention (and c4d.sharded), or use the kernel 'auto'"
            )
        for module, processor in perturbed:
            module.processor = processor.before
        self._aside, self._perturbed = perturbed, max(self._perturbed, len(perturbed))

    def _give_back(self) -> None:
        for module, processor in self._aside:
            if module.__dict__.get("processor") is processor.before:
                module.processor = processor  # type: ignore[assignment]
        self._aside = []

    def leave(self, args: Any, output: Any) -> None:
        self._give_back()
        for work in self._works.values():
            work.reset()

    def _look(self) -> None:
        if self._placed:
            found = [(module.__dict__.get("processor"), ours) for module, ours in self._placed]
            self._exchanged = Counter(type(there).__name__ for there, ours in found if there is not ours)

    def _attend(self, dtype: Any, heads: tuple[int, int], masked: bool) -> tuple[str, Any]:
        key = (dtype, *heads, masked)
        if key not in self._chosen:
            self._chosen[key] = self._resolve(*key)
        return self._chosen[key]

    def _declared(self) -> list[tuple[str, nn.Module, type[Processor]]]:
        return [(path, module, cls) for _, _, path, module, cls in declared(self.transformer, self.spec)]

    def lines(self) -> list[str]:
        said = []
        if self._ours:
            counts = Counter(cls.kind for _, cls in self._ours)
            what = " and ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items())
            through = "through" if self._entered else "will go through"
            said.append(f"{self.label}: {what} {through} {' and '.join(sorted(self._names))}")
        self._look()
        if self._perturbed:
            said.append(f"{self.label}: {self._perturbed} of them left to their own while a guider perturbs it")
        for name, n in self._exchanged.items():
            said.append(f"{self.label}: {n} of them given another processor inside the with block, {name}")
        for name, n in self._left.items():
            which = "1 attention left to its" if n == 1 else f"{n} attentions left to their"
            said.append(f"{self.label}: {which} own processor {name}")
        if not said:
            return [f"{self.label}: no attention declared in its spec; all left as they are"]
        for name, n in self.unnamed.items():
            said.append(f"{self.label}: {n} that its spec names no kernel for left to their own processor {name}")
        return said


def declared(transformer: nn.Module, spec: ModelSpec) -> Iterator[tuple[Stack, int, str, nn.Module, type[Processor]]]:
    """The attentions that the blocks have: stack, number in it, path, module and what can stand in for its processor.

    Those that are there: an attention may be in some blocks of a stack alone.
    """
    for stack in spec.stacks:
        for i, block in enumerate(transformer.get_submodule(stack.path).children()):
            for inner, cls in stack.attention.items():
                module = dict(block.named_modules()).get(inner)
                if module is not None:
                    yield stack, i, f"{stack.path}.{i}.{inner}", module, cls


def is_perturbed(attention: nn.Module) -> bool:
    """True while a diffusers guider's hook replaces what this attention computes."""
    hooks = getattr(getattr(attention, "_diffusers_hook", None), "hooks", {})
    return any(type(hook).__name__ == "AttentionProcessorSkipHook" for hook in hooks.values())


class AttentionSession(Entered):
    """Puts a backend's attention into ``transformers`` while its ``with`` block lasts; made by :func:`c4d.attention`.

    ``transformers`` by the name that messages and reports give them.
    """

    def __init__(
        self,
        transformers: Mapping[str, tuple[nn.Module, ModelSpec]],
        kernel: str,
        primitives: AttentionPrimitives,
        resolve: Resolve,
    ) -> None:
        self.kernel = kernel
        self._at_work = False
        self._fittings = [ProcessorPatch(name, *pair, primitives, resolve) for name, pair in transformers.items()]
        self._plan()
        self.unused = "c4d.attention"

    def __enter__(self) -> AttentionSession:
        if self._at_work:
            raise RuntimeError("this attention is already at work: leave its with block first")
        self.unused = None
        self._plan()  # again: the model may have changed since
        try:
            for fitting in self._fittings:
                fitting.install()
        except BaseException:
            self.__exit__()
            raise
        self._at_work = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._at_work = False
        for fitting in self._fittings:
            fitting.remove()

    def lines(self) -> list[str]:
        """Plain sentences for a report: which attentions run through which kernel, and which were left alone."""
        return [line for fitting in self._fittings for line in fitting.lines()]

    @property
    def fittings(self) -> list[ProcessorPatch]:
        return list(self._fittings)

    @property
    def heads(self) -> int:
        """The fewest that an attention has; 1 if there is none to put a kernel into."""
        return min((heads for fitting in self._fittings for heads, _ in fitting.heads_of), default=1)

    @property
    def host_reads(self) -> int:
        """How often the host has waited for a mask of padded text."""
        return sum(fitting.trim.reads for fitting in self._fittings if fitting.trim is not None)

    def _plan(self) -> None:
        for fitting in self._fittings:
            fitting.plan(self.kernel)
