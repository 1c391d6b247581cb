"""Makes the profiles that come with c4d for its bundled models, in c4d/core/methods/profiles.

    python -m tools.make_profiles MODEL [--trials 200] [--computed 14/10] [--samples 36] [--sampler dpm++]
        [--work DIR] [--begin FILE] [--refit]

It learns from prompts of the kind that the model was trained on, under noise seeds that no measurement uses. With the
same number of trials, versions and threads the result is the same; an interrupted run goes on from DIR. Where there is
a profile already, the search begins with its schedules (or those of --begin), and plans of numbers of computed steps
that were not searched stay. --refit searches nothing: weights and corrections anew, at the steps that the profile has
(where there is none with this sampler yet, the model's own one).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch

import c4d
from bench.yardsticks import HELD, SAMPLERS, SEED, Yardstick
from c4d.calibrate.about import about_sampling
from c4d.calibrate.fit import Fit
from c4d.calibrate.reference import record
from c4d.calibrate.search import missed_by_half
from c4d.calibrate.tune import learned

COMPUTED = (25, 20, 17, 14, 12, 10, 8, 6)
RIDGE, SINCE = 1e-4, (0.0, 0.5)  # of a refit, and from which part of the run on steps may be corrected


def refitted(yardstick: Yardstick, profile: c4d.Profile, counts: Sequence[int], samples: int) -> c4d.Profile:
    """``profile`` with the plans of ``counts`` fitted anew to ``samples``; of ``SINCE`` what suits others best."""
    prompts = yardstick.learning(samples)
    job = yardstick.samplings(prompts, range(SEED, SEED + samples))
    fit = Fit(job, record(job), ridge=RIDGE)
    for count in counts:
        plan, tried = profile.plans[count], profile.measured[count].get("tried", 0)
        steps = plan.steps(fit.reference.levels) | fit.reference.forced
        fits = [fit.but(corrects_from=since) for since in SINCE]
        found = learned(min(fits, key=partial(missed_by_half, computed=steps)), steps, tried)
        print(f"{count}: {found.measured['fit']}", flush=True)
        profile = profile.with_plans(replace(profile, plans={count: found.plan}, measured={count: found.measured}))
    told = about_sampling(yardstick.pipe.scheduler, prompts, yardstick.call())
    return replace(profile, about={**profile.about, **told, "samples": fit.count})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=HELD)
    parser.add_argument("--sampler", choices=SAMPLERS, help="another than the model's own; the profile's name has it")
    parser.add_argument("--trials", type=int, default=200, help="schedules tried for each number of computed steps")
    parser.add_argument("--computed", default="/".join(map(str, COMPUTED)), help="numbers of computed steps")
    parser.add_argument("--samples", type=int, default=36, help="that are learned from, each of another prompt")
    parser.add_argument("--refit", action="store_true", help="fit the weights anew; search nothing")
    parser.add_argument("--begin", type=Path, help="another profile whose schedules the search begins with")
    parser.add_argument("--work", type=Path, help="folder that an interrupted run goes on from")
    parser.add_argument("--out", type=Path, default=Path(str(files("c4d.core.methods") / "profiles")))
    options = parser.parse_args()
    torch.set_num_threads(1)
    yardstick, name = Yardstick(options.model), options.model
    if options.sampler is not None:
        yardstick.use(yardstick.sampler(options.sampler))
        name += f"-{options.sampler.replace('+', 'p')}"
    path, counts = options.out / f"{name}.json", [int(count) for count in options.computed.split("/")]
    if options.refit:
        with torch.no_grad():
            old = c4d.Profile.load(path if path.exists() else path.with_stem(options.model))
            refitted(yardstick, old, counts, options.samples).save(path)
        print(f"written: {path}")
        return 0
    begun = options.begin or (path if path.exists() else None)
    profile = c4d.tune(
        yardstick.pipe,
        prompts=yardstick.learning(options.samples),
        computed=counts,
        trials=options.trials,
        seed=SEED,
        work=options.work,
        about={"model": options.model, "dtype": "float32"},
        begin=c4d.Profile.load(begun) if begun is not None else None,
        progress=lambda line: print(line, flush=True),
        **yardstick.call(),
    )
    if path.exists():
        profile = c4d.Profile.load(path).with_plans(profile)
    options.out.mkdir(parents=True, exist_ok=True)
    profile.save(path)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
