"""Model families as data, one file each; found by the class of a transformer.

Those of other packages are here, too: entry points of the group ``c4d.models``, which give specs.
"""

from __future__ import annotations

import re

from torch import nn

from c4d.core.registry import Registry
from c4d.core.spec import ModelSpec

SPECS = Registry("c4d.models", __name__, ModelSpec, lambda spec: spec.transformer)

__all__ = ["SPECS", "UnsupportedModelError", "spec_for"]


class UnsupportedModelError(TypeError):
    """A transformer class without a spec."""


def spec_known_as(published: str) -> ModelSpec | None:
    """The spec of the models that values are published for under this name; None if c4d has none for them."""
    found = [(len(start), spec) for spec in SPECS.values() for start in spec.known_as if published.startswith(start)]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def made_for_another(method: str, spec: ModelSpec) -> str | None:
    """Of a method's text: in words, that it has the published values of another model than ``spec``'s; else None."""
    for option, name in re.findall(r"\b(published|fit|curve)=([^,+@]+)", method):
        theirs = spec_known_as(name.strip())
        if theirs is not None and theirs is not spec:
            return f"{option}={name} was made for {theirs.transformer}; on {spec.transformer} its values mean little"
    return None


def spec_for(transformer: nn.Module) -> ModelSpec:
    """The spec of the transformer's class or of the nearest base class that has one.

    Raises :class:`UnsupportedModelError`, listing the supported classes, if there is none.
    """
    for cls in type(transformer).__mro__:
        if cls.__name__ in SPECS:
            return SPECS[cls.__name__]
    modules = transformer.named_modules() if "_modules" in vars(transformer) else ()  # a skeleton has none
    named = ((path, type(module).__name__) for path, module in modules)
    inner = next((f". Its {path!r} is a {name}: give c4d that" for path, name in named if name in SPECS), "")
    raise UnsupportedModelError(
        f"c4d has no spec for {type(transformer).__name__}{inner}; it supports {', '.join(SPECS)}. "
        "docs/adding_a_model.md shows how to describe another one (c4d.cached(..., spec=ModelSpec(...)))"
    )
