"""Model families as data, one file each; found by the class of a transformer.

Those of other packages are here, too: entry points of the group ``c4d.models``, which give specs. Of a class that
nobody described, what its forward is called with is enough to cache its output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.core.integration.hooks import parameters
from c4d.core.registry import Registry
from c4d.core.spec import ModelSpec

SPECS = Registry("c4d.models", __name__, ModelSpec, lambda spec: spec.transformer)

__all__ = ["SPECS", "UnsupportedModelError", "spec_for"]


LATENTS = ("hidden_states", "sample", "x")  # what forwards call what they denoise; else their first argument
TIMESTEPS = ("timestep", "timesteps", "t", "timestep_ratio")


class UnsupportedModelError(TypeError):
    """A class without a spec, whose forward does not say what its latents and its timestep are either."""


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
    """The spec of the transformer's class or of the nearest base class that has one; else :func:`undescribed`.

    Raises :class:`UnsupportedModelError` for a forward that denoises nothing, and for a module around a described
    transformer.
    """
    for cls in type(transformer).__mro__:
        if cls.__name__ in SPECS:
            return SPECS[cls.__name__]
    modules = transformer.named_modules() if "_modules" in vars(transformer) else ()  # a skeleton has none
    named = ((path, type(module).__name__) for path, module in modules)
    inner = next((f". Its {path!r} is a {name}: give c4d that" for path, name in named if name in SPECS), None)
    if inner is None and (found := undescribed(transformer)) is not None:
        return found
    why = inner or f", and its forward has no {_or(TIMESTEPS)}"
    raise UnsupportedModelError(
        f"c4d has no spec for {type(transformer).__name__}{why}; it describes {len(SPECS)} classes "
        f"({', '.join(list(SPECS)[:3])}, …: c4d models lists them), and any forward with a timestep is cached at its "
        "output. Where its arguments have other names, spec=c4d.ModelSpec(NAME, latents=…, timestep=…) says them; "
        "docs/adding_a_model.md shows the rest"
    )


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def undescribed(module: nn.Module) -> ModelSpec | None:
    """What the forward of a class tells of itself: enough to cache its output. None if it has no timestep."""
    names = parameters(module)
    when = next((name for name in TIMESTEPS if name in names), None)
    if when is None:
        return None
    latents = next((name for name in LATENTS if name in names), names[0])
    return ModelSpec(type(module).__name__, latents=latents, timestep=when, grid=sides_of(latents))


def sides_of(latents: str) -> Any:
    """A ``grid`` for latents [B, C, *sides]. Raises RuntimeError for tokens, which say nothing of their places."""

    def grid(transformer: nn.Module, named: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
        x: Tensor = pytree.tree_leaves(named[latents])[0]
        if x.ndim < 4:
            raise RuntimeError(
                f"the latents of {type(transformer).__name__} are tokens {list(x.shape)}, and where they lie nobody "
                "described: give c4d.cached(…, spec=ModelSpec(…, grid=…)), or another method"
            )
        return (tuple(x.shape[2:]),)

    return grid
