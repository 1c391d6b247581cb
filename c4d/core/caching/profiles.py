"""Where profiles are found (a file, the user's folder, those that come with c4d), and the rule of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from c4d.core.caching.profile import ByNoise, Calibrated, Profile, ProfileError, mismatch
from c4d.core.caching.rules import OutputRule
from c4d.core.caching.solver import Plan

OWN = "c4d.core.methods"  # the package whose folder ``profiles`` has those that come with c4d
# Of the steps of a run, how many are computed, and the least number of them. Of fewer than SHORT none is spared.
QUALITIES = {"high": (0.40, 14), "balanced": (0.28, 10), "fast": (0.20, 7)}
SHORT = 12


def universal(kind: str) -> str:
    """The name of the profile that was made for no model in particular, of those that predict this."""
    return "universal" if kind == "flow" else f"universal-{kind}"


def folder() -> Path:
    """The user's: ``$XDG_CACHE_HOME/c4d/profiles``, else ``~/.cache/c4d/profiles``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "c4d" / "profiles"


def named() -> dict[str, Path]:
    """Name -> file; the user's come before those of the package."""
    return shipped() | _in(folder())


def shipped() -> dict[str, Path]:
    """The same of the package alone."""
    return _in(Path(str(files(OWN) / "profiles")))


def _in(place: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(place.glob("*.json"))}


def found(path: str) -> Profile:
    """The profile in a file, or of a name. Raises :class:`ProfileError` if there is none."""
    known = named()
    if not Path(path).is_file() and path in known:
        return Profile.load(known[path])
    if not Path(path).is_file() and "/" not in path and not path.endswith(".json"):
        listed = ", ".join(known) or "none"
        raise ProfileError(f"no profile is named {path!r}: known are {listed} (in {folder()}, and c4d's own)")
    return Profile.load(path)


def for_model(signature: Mapping[str, Any], sampler: str | None = None) -> tuple[str, Profile] | None:
    """The name of a profile that was made for such a transformer, and it; None if there is none.

    One that was made with a scheduler of the class named ``sampler`` comes first.
    """
    fitting = []
    for name, path in reversed(named().items()):
        try:
            profile = Profile.load(path)
        except ProfileError:  # a broken file in the user's folder is no reason to fail where nobody asked for it
            continue
        if profile.made_for is not None and mismatch(profile.made_for, signature) is None:
            fitting.append((name, profile))
    fitting.sort(key=lambda each: each[1].about.get("scheduler") != sampler)
    return next(iter(fitting), None)


def of_quality(profile: Profile, quality: str, total: int) -> int | None:
    """How many of ``total`` steps are computed for a quality; None for all of them.

    Raises :class:`ProfileError` for an unknown quality.
    """
    if quality not in QUALITIES:
        raise ProfileError(f"unknown quality {quality!r}: known are {', '.join(QUALITIES)}")
    share, least = QUALITIES[quality]
    wanted = max(least, round(share * total))
    if total < SHORT or wanted >= total or wanted < min(profile.plans):
        return None
    return min(wanted, max(profile.plans))


@dataclass(frozen=True)
class PlanFor:
    """The plan of a run of so many steps: that of ``computed`` steps, or of as many as a ``quality`` asks for."""

    profile: Profile
    computed: int | None
    quality: str | None

    def __post_init__(self) -> None:
        if self.quality is None:
            self.profile.plan(self.computed)
        else:
            of_quality(self.profile, self.quality, 0)

    def __call__(self, total: int) -> Plan | None:
        if self.quality is None:
            return self.profile.plan(self.computed)
        wanted = of_quality(self.profile, self.quality, total)
        return None if wanted is None else self.profile.plan(wanted)


def rule_of(profile: Profile, computed: int | None = None, quality: str | None = None) -> OutputRule:
    """The rule of a profile, for ``computed`` steps, or as many as a ``quality`` asks for.

    Raises :class:`ProfileError` for what the profile has not.
    """
    plans = PlanFor(profile, computed, quality)
    return OutputRule(ByNoise(plans, profile.made_for), Calibrated(plans, profile.coordinate), residual=False)
