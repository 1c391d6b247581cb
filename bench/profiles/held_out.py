"""Has the shipped profiles say how close they came on held-out prompts, where that was measured.

    python -m bench.profiles.held_out

What docs/measurements/profiles/results.json has of a profile with its own sampler becomes its ``measured``, as of one
that ``c4d tune`` made: the studio shows it where a quality is chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.profiles.results import Results
from bench.yardsticks import FOLDER, KINDS
from c4d.core.caching.profile import Profile
from c4d.core.caching.profiles import shipped

SAMPLERS = {kind: name for name, kind in KINDS.items()}  # class of diffusers -> as rows call it; any other is Euler's
UNIVERSAL = "universal"  # it is of no model, and so is its closeness


def told(name: str, profile: Profile, rows: Mapping[str, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Number of computed steps -> what was measured then, with the figures of ``rows``."""
    about, found = profile.about, {count: dict(seen) for count, seen in profile.measured.items()}
    for count in profile.plans:
        row = rows.get(
            f"{about['model']} | {SAMPLERS.get(about['scheduler'], 'euler')} | profile:{name},computed={count}"
        )
        if row is not None:
            close = row["psnr"]
            figures = {"samples": len(close), "psnr_mean": statistics.mean(close), "psnr_worst": min(close)}
            found[count] = {**found.get(count, {}), "held_out": {key: round(x, 1) for key, x in figures.items()}}
    return found


def main() -> None:
    rows = Results(FOLDER / "results.json").rows
    for name, path in shipped().items():
        if name != UNIVERSAL:
            profile = Profile.load(path)
            measured = told(name, profile, rows)
            replace(profile, measured=measured).save(path)
            print(f"{name}: {sum('held_out' in seen for seen in measured.values())} of {len(profile.plans)} plans")


if __name__ == "__main__":
    main()
