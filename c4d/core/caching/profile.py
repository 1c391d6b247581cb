"""Profiles: what was calibrated for a model, as data; and the policy and the forecaster that follow one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from c4d.core.caching.noise import COORDINATES, Coordinate
from c4d.core.caching.solver import AHEAD, FEATURES, Plan, blended, corrected_weights, weights_of
from c4d.core.types import Action, LinearForecaster, Measured, Policy, RelativeL1, Signal, Step

FORMAT, VERSION = "c4d profile", 2
READ = (1, VERSION)  # the first one corrects no computed step


FEW = "a profile begins at 12 steps, and of a distilled model each one counts"


class ProfileError(ValueError):
    """A file that is no profile, or a profile that is not for this model."""


@dataclass(frozen=True)
class Profile:
    """Plans by their number of computed steps, for models that predict what ``kind`` says (``COORDINATES``).

    ``made_for``: the transformer (:func:`c4d.core.integration.transformers.signature`), None for any. ``about``: how
    and with what it was made. ``measured``: number of computed steps -> what was measured then.
    """

    kind: str
    plans: Mapping[int, Plan]
    made_for: Mapping[str, Any] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    default: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in COORDINATES:
            raise ProfileError(f"unknown kind of prediction {self.kind!r}: known are {', '.join(COORDINATES)}")
        if not self.plans:
            raise ProfileError("a profile needs at least one plan")
        for count, plan in self.plans.items():
            if count != len(plan.computed):
                raise ProfileError(f"the plan of {count} computed steps has {len(plan.computed)}")

    @property
    def coordinate(self) -> Coordinate:
        return COORDINATES[self.kind]

    @property
    def computed(self) -> int:
        """How many steps are computed unless somebody says it."""
        return self.default if self.default is not None else max(self.plans)

    def plan(self, computed: int | None = None) -> Plan:
        """That of so many computed steps; between two of the profile's it is made of both.

        Raises :class:`ProfileError` outside of the range of its plans.
        """
        wanted = self.computed if computed is None else computed
        if wanted in self.plans:
            return self.plans[wanted]
        few = [count for count in self.plans if count < wanted]
        many = [count for count in self.plans if count > wanted]
        if not few or not many:
            raise ProfileError(
                f"computed={wanted} is outside of this profile, which has {min(self.plans)} to {max(self.plans)} "
                "computed steps; take one of these, or make a profile with it (c4d tune)"
            )
        return blended(self.plans[max(few)], self.plans[min(many)], wanted)

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, whole or not at all."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        beside.replace(path)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON."""
        plans = {
            str(count): {
                "computed": list(plan.computed),
                "between": [[level, *c] for level, c in plan.between],
                "corrected": [[level, *c] for level, c in plan.corrected],
                "measured": dict(self.measured.get(count, {})),
            }
            for count, plan in sorted(self.plans.items())
        }
        made_for = None if self.made_for is None else dict(self.made_for)
        head = {"format": FORMAT, "version": VERSION, "kind": self.kind, "made_for": made_for}
        return {**head, "default": self.default, "about": dict(self.about), "plans": plans}

    @classmethod
    def from_dict(cls, found: Any) -> Profile:
        """Raises :class:`ProfileError` for anything but what :meth:`to_dict` gives."""
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            said = found.get("kind") if isinstance(found, dict) else type(found).__name__
            raise ProfileError(f"it is no profile (its format is {said!r}); c4d tune makes one")
        if found.get("version") not in READ:
            known = " and ".join(map(str, READ))
            raise ProfileError(f"it has version {found.get('version')!r}, and this c4d reads {known}: make it again")
        try:
            plans = {int(count): _plan(plan) for count, plan in found["plans"].items()}
            measured = {int(count): plan.get("measured", {}) for count, plan in found["plans"].items()}
            return cls(found["kind"], plans, found["made_for"], found.get("about", {}), measured, found.get("default"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(f"it is broken: {type(error).__name__}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Raises :class:`ProfileError` for a file that cannot be read or is no profile."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (OSError, ValueError) as error:
            raise ProfileError(f"profile {str(path)!r}: {error}") from error

    def with_plans(self, other: Profile) -> Profile:
        """This one, with the plans of another of the same model beside its own."""
        return replace(self, plans={**self.plans, **other.plans}, measured={**self.measured, **other.measured})


def _plan(found: Mapping[str, Any]) -> Plan:
    computed, between, corrected = tuple(float(level) for level in found["computed"]), [], []
    for level, c0, c1, c2, c3, c4 in found["between"]:
        between.append((float(level), (float(c0), float(c1), float(c2), float(c3), float(c4))))
    for level, c0, c1, c2, c3, c4, c5 in found.get("corrected", ()):
        corrected.append((float(level), (float(c0), float(c1), float(c2), float(c3), float(c4), float(c5))))
    return Plan(computed, tuple(between), tuple(corrected))


def mismatch(made_for: Mapping[str, Any] | None, signature: Mapping[str, Any]) -> str | None:
    """In words, why what was made for one transformer is not for another; None if it may be used."""
    if made_for is None:
        return None
    if made_for["transformer"] != signature["transformer"]:
        return f"it was made for {made_for['transformer']}, and this is {signature['transformer']}"
    ours, theirs = signature.get("config", {}), made_for.get("config", {})
    for key in ours.keys() & theirs.keys():
        if ours[key] != theirs[key]:
            return f"it was made for a {made_for['transformer']} with {key}={theirs[key]!r}, and this has {ours[key]!r}"
    return None


Plans = Callable[[int], "Plan | None"]  # of a run of so many steps; None computes all of them


@dataclass(frozen=True)
class ByNoise(Policy["frozenset[int] | None"]):
    """Computes the steps whose noise levels lie nearest to those of the run's plan."""

    plans: Plans
    model: Mapping[str, Any] | None = None

    @property
    def by_noise(self) -> bool:
        return True

    @property
    def calibrated_for(self) -> Mapping[str, Any] | None:
        return self.model

    def init(self) -> frozenset[int] | None:
        return None  # the computed steps of this run

    def decide(
        self, chosen: frozenset[int] | None, step: Step, seen: Mapping[Signal, RelativeL1]
    ) -> tuple[Action, frozenset[int]]:
        assert step.levels is not None  # by_noise
        if chosen is None:
            plan = self.plans(step.total)
            return Action.COMPUTE, frozenset(range(step.total)) if plan is None else plan.steps(step.levels)
        return (Action.COMPUTE if step.index in chosen else Action.REUSE), chosen

    def idle(self, total: int, measured: Measured) -> str:
        plan = self.plans(total)
        if plan is None:
            return f"of {total} steps none is spared: {FEW}"
        return f"the profile computes {len(plan.computed)} steps, and the run has {total}"


@dataclass(frozen=True)
class Calibrated(LinearForecaster):
    """Outputs by the coefficients of the run's plan (:mod:`c4d.core.caching.solver`), at its noise ``levels``."""

    plans: Plans
    coordinate: Coordinate
    plan: Plan | None = None
    levels: tuple[float, ...] = ()

    over = "sigma"
    reads_latents = by_noise = True

    @property
    def num_features(self) -> int:
        return FEATURES

    def of_run(self, step: Step) -> Calibrated:
        assert step.levels is not None  # by_noise
        return replace(self, plan=self.plans(step.total), levels=step.levels)

    def weights(self, times: Sequence[float], t: float) -> list[float]:
        assert self.plan is not None  # of_run: a run without a plan reuses nothing
        last = times[-AHEAD:]
        made = weights_of(self.plan.coefficients(last[-1], t), last, t, self.coordinate)
        return [0.0] * (len(times) - len(last)) + made

    def handed_on(self, times: Sequence[float]) -> list[float] | None:
        now, after = times[-1], max((n for n in self.levels if n < times[-1]), default=0.0)
        correction = None if self.plan is None else self.plan.correction(now)
        skipped = tuple(times) != self.levels[: len(times)]  # before the first forecast there is nothing to repair
        if correction is None or len(times) < 2 or after == now or not skipped:
            return None
        return corrected_weights(correction, times, after, self.coordinate)
