"""What there is to choose for speed: the qualities of ``auto`` on a model, with what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from c4d.bundled.models import BUNDLED
from c4d.core.caching.profile import ByNoise
from c4d.core.caching.profiles import QUALITIES, PlanFor
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.choice import Choice, choose_method
from c4d.pipelines import Request, effective

NONE, TEXT = "none", "text"  # besides the qualities: no cache, and a method that is written


@dataclass(frozen=True)
class Offer:
    """``value`` is a quality, ``NONE`` or ``TEXT``; ``method`` is the text that a record of it has."""

    value: str
    method: str | None
    label: str


def offers(model: str, pipe: Any, steps: int | None, records: Iterable[Mapping[str, Any]] = ()) -> list[Offer]:
    """Those of ``pipe``, which may be a skeleton, in so many ``steps`` (None: as many as it takes by itself).

    ``records`` are results that were made here: what was measured in them is told too.
    """
    steps = steps or steps_of(model, pipe)
    transformers, scheduler = list(transformers_of(pipe).values()), getattr(pipe, "scheduler", None)
    seen = measured(model, records)
    found = []
    for quality in QUALITIES:
        choice = choose_method(transformers, scheduler, quality, steps)
        name = choice.method.name if choice.method is not None else None
        said = [f"{quality}: {_speed(choice, steps)}", *_close(choice, steps), *seen.get(name or "", [])]
        found.append(Offer(quality, name, "; ".join(said)))
    return [
        *found,
        Offer(NONE, None, f"no cache: all {steps} steps are computed" if steps else "no cache"),
        Offer(TEXT, None, "a method that you name"),
    ]


def steps_of(model: str, pipe: Any) -> int | None:
    """How many steps a run has if nobody says it; None where that is not known before it is loaded."""
    if model in BUNDLED:
        return BUNDLED[model].defaults.steps
    return effective(pipe, Request("a prompt")).get("num_inference_steps") if callable(pipe) else None


def measured(model: str, records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Method -> what its runs on ``model`` that were compared came to."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["asked"]["model"] == model and "cached" in record["fidelity"]:
            runs.setdefault(record["asked"]["cache"], []).append(record)
    found = {}
    for method, several in runs.items():
        speed = mean(record["timing"]["speedup"] for record in several)
        close = [db for record in several if (db := record["fidelity"]["cached"]["psnr_db"]) is not None]
        said = f"{mean(close):.1f} dB and " if close else "the uncached clip itself and "
        runs_of = "your run" if len(several) == 1 else f"your {len(several)} runs"
        found[method] = [f"in {runs_of} {said}{speed:.1f} times as fast"]
    return found


def _speed(choice: Choice, steps: int | None) -> str:
    if choice.method is None:
        return choice.why
    plans = _plans(choice)
    plan = plans(steps) if plans is not None and steps is not None else None
    if plan is None:
        return f"all {steps} steps are computed" if plans is not None and steps else choice.method.name
    count = len(plan.computed)
    return f"up to {steps / count:.1f} times as fast ({count} of {steps} steps)"  # type: ignore[operator]


def _close(choice: Choice, steps: int | None) -> list[str]:
    """What the profile says of itself: on prompts that it did not learn from, or else on those that it did."""
    plans = _plans(choice)
    plan = plans(steps) if plans is not None and steps is not None else None
    if plans is None or plan is None:
        return []
    if steps != plans.profile.about.get("steps", steps):
        return [f"closeness not measured in {steps} steps"]
    told = plans.profile.measured.get(len(plan.computed), {})
    if held := told.get("held_out"):
        return [f"{held['psnr_mean']:.1f} dB, worst {held['psnr_worst']:.1f}"]
    if fit := told.get("fit"):
        return [f"latents {fit['db_mean']:.0f} dB, worst {fit['db_worst']:.0f}, where it learned"]
    return ["not measured: Tune does"]


def _plans(choice: Choice) -> PlanFor | None:
    policies = [rule.policy for rule in choice.method.rules] if choice.method is not None else []
    return next((p.plans for p in policies if isinstance(p, ByNoise) and isinstance(p.plans, PlanFor)), None)
