"""What is done where nobody said how: a profile of this model, else the universal one, else nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from c4d.core.caching.profile import Profile
from c4d.core.caching.profiles import QUALITIES, SHORT, for_model, named, rule_of, universal
from c4d.core.caching.rules import CacheMethod
from c4d.core.integration.transformers import signature
from c4d.core.runtime.schedulers import adds_noise, prediction_of

AUTO = "auto"
BETTER = "c4d tune makes a profile of this model, which is closer"
ALL = "taylorseer-lite:interval=1"  # computes every step
# Samplers under which the universal profile was measured on models that did not teach it (bench.profiles.auto).
MEASURED = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")


@dataclass(frozen=True)
class Choice:
    """``method`` is None where nothing is cached; ``why`` says it in one line."""

    method: CacheMethod | None
    why: str


def choose_method(transformers: Sequence[nn.Module], scheduler: Any, quality: str, steps: int | None = None) -> Choice:
    """For a model that is sampled with ``scheduler``, in ``steps`` if that is known.

    Raises ValueError for an unknown quality.
    """
    if quality not in QUALITIES:
        raise ValueError(f"unknown quality {quality!r}: known are {', '.join(QUALITIES)}")
    if steps is not None and steps < SHORT:
        return Choice(None, f"no cache: of {steps} steps none can be spared ({few(steps)})")
    if adds_noise(scheduler):
        return Choice(None, f"no cache: {type(scheduler).__name__} adds noise in its steps, which no profile forecasts")
    kind = prediction_of(scheduler)
    own = for_model(signature(transformers[0]), type(scheduler).__name__)
    if own is not None and own[1].kind == kind:
        return _of_this_model(*own, scheduler, quality)
    if kind is not None and (name := universal(kind)) in named():
        if not any(cls.__name__ in MEASURED for cls in type(scheduler).__mro__):
            said = f"the {name} profile was not measured with {type(scheduler).__name__}"
            return Choice(None, f"no cache: {said}, but with {', '.join(MEASURED)}; {BETTER}")
        method = _following(name, Profile.load(named()[name]), quality)
        return Choice(method, f"the {name} profile, made on other, small models; {BETTER}")
    return Choice(None, f"no cache: there is no profile for what {type(scheduler).__name__} predicts; {BETTER}")


def _following(name: str, profile: Profile, quality: str) -> CacheMethod:
    """The method that ``profile:NAME,quality=QUALITY`` is, of a profile that is at hand."""
    return CacheMethod(f"profile:{name},quality={quality}", (rule_of(profile, quality=quality),))


def _of_this_model(name: str, profile: Profile, scheduler: Any, quality: str) -> Choice:
    """Where a model predicts noise, plain steps of better samplers are so close that a profile is for its own alone."""
    made_with, here = profile.about.get("scheduler", "another sampler"), type(scheduler).__name__
    if prediction_of(scheduler) != "flow" and made_with != here:
        said = f"the profile of this model was made with {made_with}, and what it gains with {here} is not known"
        return Choice(None, f"no cache: {said}; c4d tune makes one for that")
    return Choice(
        _following(name, profile, quality),
        f"profile {name!r}, made for this model with {made_with}; --quality {'|'.join(QUALITIES)}, or c4d tune for "
        "prompts of your own",
    )


def few(steps: int) -> str:
    """What a skipped step is worth where there are few."""
    return f"a skipped one would save 1/{steps} of the time, and --steps {steps - 1} saves as much without a forecast"
