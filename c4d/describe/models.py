"""What there is to say of a described model, as data: its family, what computes its attention, which methods fit."""

from __future__ import annotations

from dataclasses import dataclass

from c4d.core.methods import METHODS
from c4d.core.spec import ModelSpec
from c4d.describe.methods import published_for, refusal
from c4d.models import SPECS


@dataclass(frozen=True)
class Fit:
    """A method beside a model: why it is ``refused`` (None: it is not), and what is ``published`` for such a model."""

    method: str
    refused: str | None
    published: tuple[str, ...]


def fits(spec: ModelSpec) -> list[Fit]:
    """Every method beside the model."""
    return [Fit(method, refusal(method, spec), tuple(published_for(method, spec))) for method in METHODS]


def attention_kinds(spec: ModelSpec) -> list[str]:
    """The kinds of attention that a backend's kernel can compute in its place; none: its own code does."""
    return list(dict.fromkeys(cls.kind for stack in spec.stacks for cls in stack.attention.values()))


def short(transformer: str) -> str:
    """The name of a class without what most of them end in."""
    for ending in ("Transformer3DModel", "Transformer2DModel"):
        transformer = transformer.removesuffix(ending)
    return transformer


@dataclass(frozen=True)
class Family:
    """One file of ``c4d/models``, or one package of others: its ``name``, what it says of itself, its specs."""

    name: str
    about: str
    specs: tuple[ModelSpec, ...]


def families() -> list[Family]:
    """All of them, each spec in one."""
    found = [
        Family(module.__name__.rpartition(".")[2], module.__doc__ or "", tuple(SPECS[name] for name in names))
        for module, names in SPECS.homes.items()
    ]
    theirs = [spec for name, spec in SPECS.items() if name not in SPECS.own]
    return [*found, *(Family(spec.transformer, spec.about, (spec,)) for spec in theirs)]
