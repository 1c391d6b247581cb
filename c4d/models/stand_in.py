"""A module of c4d's own that stands for a model of another engine, and what of a method goes on its output alone.

Classes of ComfyUI and SGLang may bear the names of diffusers' and are not those: none of c4d's specs is of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from c4d.core.caching.profile import Calibrated
from c4d.core.caching.rules import CacheMethod
from c4d.core.integration.attach import check_fit
from c4d.core.methods import METHODS
from c4d.core.spec import ModelSpec
from c4d.core.text.grammar import MethodError, parse
from c4d.core.types import OUTPUT
from c4d.models import spec_for


class Denoiser(nn.Module):
    """Stands for a model in a session: ``call`` is its forward, ``x`` are the latents, or several."""

    def forward(self, x: Any, timestep: Any, call: Callable[[], Any]) -> Any:
        return call()


def spec_named(model: str) -> ModelSpec:
    """The spec of a :class:`Denoiser`, with the name of the model that it stands for: its output alone."""
    return replace(spec_for(Denoiser()), transformer=model)


def at_output(text: str, engine: str) -> CacheMethod:
    """The method that ``text`` describes, for what a model of ``engine`` returns; samples of a batch decide alike.

    Raises :class:`~c4d.core.text.grammar.MethodError` for a text that names no method, or one that is not of a
    model's output.
    """
    method = parse(text)
    if method.sites != (OUTPUT,):
        raise MethodError(
            f"{method.name} caches at {', '.join(method.sites)}; in {engine} c4d caches what a model returns, and "
            f"nothing inside: {', '.join(of_outputs())}, and others with @{OUTPUT} behind them"
        )
    check_fit(method, spec_named(f"a model of {engine}"))
    if made_for(method) and not isinstance(method.rules[0].forecast, Calibrated):
        raise MethodError(
            f"{method.name} was calibrated on the blocks of a {made_for(method)}, not on what a model returns"
        )
    if not method.signals:
        return method
    if method.batch == "each":
        raise MethodError(
            f"{method.name}: what {engine} does around a model is for a whole batch, so that none of its samples can "
            "be computed alone: use batch=worst (the default here), or batch=mean"
        )
    return method if method.batch else method.batched("worst")


def of_outputs() -> list[str]:
    """The names of the methods that cache a model's output unless they are told otherwise."""

    def so(example: str) -> bool:
        try:
            return parse(example).sites == (OUTPUT,)
        except MethodError:  # one that leaves open which signal it measures
            return False

    return [name for name, method in METHODS.items() if so(method.example)]


def made_for(method: CacheMethod) -> str | None:
    """The class of the transformer that ``method`` was measured on, if it was on one."""
    measured_on = method.rules[0].policy.calibrated_for
    return None if measured_on is None else str(measured_on["transformer"])


def doubt(method: CacheMethod, engine: str) -> str | None:
    """What nobody can check of a profile of one model; None of other methods."""
    model = made_for(method)
    return f"made for a {model} of diffusers; that this is that model, {engine} does not tell" if model else None


def check_profile(method: CacheMethod, prediction: str | None) -> None:
    """Raises ValueError for a profile of what another kind of model predicts."""
    for rule in method.rules:
        if isinstance(rule.forecast, Calibrated) and rule.forecast.coordinate.name != prediction:
            raise ValueError(
                f"{method.name} was made for models that predict {rule.forecast.coordinate.name}, and this one "
                f"predicts {prediction or 'what c4d does not know'}: take a profile of this model, or taylorseer-lite"
            )
