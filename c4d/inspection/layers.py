"""The attentions of a model by name, which of them are meant, and a processor that shows what a stock one computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from c4d.core.attention import AttentionPrimitives, AttentionRuntime, Processor, changed
from c4d.core.integration.attach import is_compiled
from c4d.core.integration.processor_patch import declared
from c4d.core.spec import ModelSpec, Stack

Layers = int | str | Sequence[int | str] | None
Transformers = Mapping[str, tuple[nn.Module, ModelSpec]]
BACKEND = "_attention_backend"  # by which diffusers chooses a kernel, which computes with the same queries and keys


class Place(NamedTuple):
    """An attention of a transformer; ``number``: of its block along the chain of blocks, None beside that chain."""

    name: str
    module: nn.Module
    cls: type[Processor]
    transformer: nn.Module
    spec: ModelSpec
    stack: Stack
    block: nn.Module
    number: int | None

    @property
    def crosses(self) -> bool:
        return self.cls.kind == "cross-attention"

    def check(self) -> None:
        """Raises unless what it computes with can be shown."""
        there: Any = self.module.processor
        if isinstance(there, Processor):
            if there.work.spread is not None:
                raise RuntimeError(
                    f"the tokens of {self.name} are spread over ranks (c4d.sharded), and no rank has all of its map: "
                    "leave c4d.sharded, or take the maps on one rank"
                )
        elif strange := changed(there, self.cls.replaces, but=(BACKEND,)):
            raise ValueError(
                f"{self.name} of {self.spec.transformer} has the processor {strange}, of which nobody knows what it "
                "computes with: give it its stock processor again, or choose other layers"
            )
        if is_compiled(self.block) or is_compiled(self.transformer):
            raise RuntimeError(
                f"{self.name} of {self.spec.transformer} is compiled, which nobody can look into: take the maps of the "
                "model without torch.compile"
            )


def places(transformers: Transformers) -> list[Place]:
    """The attentions that the specs describe; of several transformers their names begin with the transformer's."""
    found = []
    for label, (transformer, spec) in transformers.items():
        starts, before = dict[str, int](), 0
        for stack in spec.chain:
            starts[stack.path] = before
            before += len(list(transformer.get_submodule(stack.path).children()))
        for stack, i, path, module, cls in declared(transformer, spec):
            name = path if len(transformers) == 1 else f"{label}.{path}"
            block = transformer.get_submodule(f"{stack.path}.{i}")
            number = starts[stack.path] + i if stack.path in starts else None
            found.append(Place(name, module, cls, transformer, spec, stack, block, number))
    if not found:
        names = " and ".join(spec.transformer for _, spec in transformers.values())
        raise ValueError(f"the spec of {names} describes no attention, Stack(attention=…) (docs/adding_a_model.md)")
    return found


def picked(layers: Layers, found: Sequence[Place]) -> list[Place]:
    """Those of ``found`` that are meant: by number of the block, by name, or by a pattern; None means all.

    Raises ValueError for what means none, TypeError for what is no number and no text.
    """
    if layers is None:
        return list(found)
    asked = [layers] if isinstance(layers, int | str) else list(layers)
    if not asked:
        raise ValueError("layers is empty: give numbers of blocks or names, or None for all")
    meant = {place.name for each in asked for place in _meant(each, found)}
    return [place for place in found if place.name in meant]


def _meant(asked: Any, found: Sequence[Place]) -> Iterator[Place]:
    if isinstance(asked, bool) or not isinstance(asked, int | str):
        raise TypeError(f"a layer is {asked!r}; give the number of a block, or a name such as {found[0].name!r}")
    if isinstance(asked, str):
        meant = [place for place in found if fnmatchcase(place.name, asked)]
        known = f"known are {found[0].name!r} to {found[-1].name!r}, and patterns such as '*.{_inner(found[0])}'"
    else:
        numbers = [place.number for place in found if place.number is not None]
        count = max(numbers, default=-1) + 1
        meant = [place for place in found if place.number == (asked + count if asked < 0 else asked)]
        known = f"the attentions are in blocks {min(numbers, default=0)} to {count - 1}"
    if not meant:
        raise ValueError(f"no attention of {found[0].spec.transformer} is meant by the layer {asked!r}: {known}")
    yield from meant


def _inner(place: Place) -> str:
    return place.name.rpartition(".")[2]


class Onlooker(AttentionRuntime):
    """Shows what comes to an attention, and computes none."""

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return torch.zeros_like(q, dtype=v.dtype)

    def attend_causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(q, dtype=v.dtype)


class Shown(Processor):
    """The processor that was there, with which the model computes; while somebody watches, ``cls`` makes its queries
    and keys once more beside it."""

    _attention_backend = _parallel_config = None  # diffusers sets these: refused while this processor is installed

    def __init__(self, before: Any, cls: type[Processor], primitives: AttentionPrimitives) -> None:
        work = Onlooker(primitives, "auto")
        super().__init__(work, before)
        beside = cls(work, before)
        self.__dict__["_beside"], self.__dict__["_takes"] = beside, signature(beside.__call__).parameters.keys()
        # Of an instance, diffusers looks up here which arguments its processor takes, and leaves out the others.
        self.__dict__["__call__"] = before.__call__

    def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        if self.work.watch is not None:
            beside, takes = self.__dict__["_beside"], self.__dict__["_takes"]
            with torch.no_grad():
                beside(attn, *args, **{name: x for name, x in kwargs.items() if name in takes})
        return self.before(attn, *args, **kwargs)
