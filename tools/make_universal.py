"""Makes a universal profile: one for any model that predicts the same, fitted jointly on the bundled ones.

    python -m tools.make_universal [--kind flow] [--without NAME] [--out FILE] [--computed 25/20/17/14/12/10/8/6]

The settings are those models under three samplers and three guidance scales, 50 steps. For each number of computed
steps the models' own schedules, and the mean of them, are fitted jointly and the one with the best score over all
settings is kept. --without leaves a model out, to judge the result on it (bench.profiles reads
docs/measurements/profiles/without-NAME.json). Where models disagree the coefficients are drawn to a half slope.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import c4d
from bench.yardsticks import FOLDER, SHORT, Yardstick
from c4d.calibrate.fit import Fit
from c4d.calibrate.joint import Setting, fit_jointly, results
from c4d.calibrate.lockstep import Samplings
from c4d.calibrate.pipeline import sampling
from c4d.calibrate.reference import record
from c4d.calibrate.search import score
from c4d.calibrate.tune import latents_given
from c4d.core.caching.profiles import named, universal
from c4d.core.caching.solver import Plan
from c4d.models import spec_for
from tools.make_profiles import COMPUTED, SEED

STEPS, SAMPLES = 50, 4
GUIDANCE = {"wan-tiny": (2.0, 4.0, 6.0), "flux-tiny": (2.0, 3.5, 6.0), "glyph-dit": (2.0, 3.0, 4.0)}
KINDS = {"flow": ("wan-tiny", "flux-tiny"), "epsilon": ("glyph-dit",)}
SAMPLERS = {  # the first one's noise levels are the plan's
    "flow": ("unipc", "euler", "dpm++"),
    "epsilon": ("euler", "unipc", "dpm++"),  # DDIM, with which the profiles were made
}


class Aligned(FlowMatchEulerDiscreteScheduler):
    """Euler at the noise levels that pipelines of pictures give it; UniPC and DPM-Solver++ take them by themselves."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        if sigmas is None:
            assert num_inference_steps is not None
            sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        super().set_timesteps(device=device, sigmas=sigmas)


def settings(name: str) -> Iterator[Setting]:
    yardstick = Yardstick(name)
    prompts = yardstick.learning()[:: 16 // SAMPLES]
    for sampler in filter(yardstick.takes, SAMPLERS["flow" if yardstick.flow else "epsilon"]):
        for guidance in GUIDANCE[name]:
            made = yardstick.sampler(sampler)
            scheduler = Aligned.from_config(made.config) if sampler == "euler" and yardstick.flow else made
            pipe = copy.copy(yardstick.pipe)  # of the same modules
            pipe.register_modules(scheduler=scheduler)
            call = {**yardstick.call(num_inference_steps=STEPS, guidance_scale=guidance), **SHORT.get(name, {})}
            generate, count = sampling(pipe, prompts, seed=SEED, batch=SAMPLES, call=call)
            read = [partial(latents_given, pipe.transformer, spec_for(pipe.transformer))]
            samplings = Samplings([pipe.transformer], scheduler, generate, count, read)
            yield Setting(f"{name}, {sampler}, {guidance:g}", name, Fit(samplings, record(samplings)))


def schedules(names: Sequence[str], count: int, levels: Sequence[float]) -> list[frozenset[int]]:
    """The models' own, and their mean."""
    own = [c4d.Profile.load(named()[name]).plan(count) for name in names]
    mean = [sum(level) / len(own) for level in zip(*(plan.computed for plan in own), strict=True)]
    found = [plan.steps(levels) for plan in (*own, Plan(tuple(mean)))]
    return [steps for steps in dict.fromkeys(found) if len(steps) == count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="flow", help="what the models predict")
    parser.add_argument("--without", choices=GUIDANCE)
    parser.add_argument("--computed", default="/".join(map(str, COMPUTED)))
    parser.add_argument("--wary", type=float, default=1.0, help="how much disagreement draws to a half slope")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    names = [name for name in KINDS[options.kind] if name != options.without]
    together = [setting for name in names for setting in settings(name)]
    print(f"{len(together)} settings of {', '.join(names)}", flush=True)
    plans = {}
    for count in map(int, options.computed.split("/")):
        tried = []
        for steps in schedules(names, count, together[0].fit.reference.levels):
            plan = fit_jointly(together, steps, wary=options.wary)
            scores = {name: score(errors) for name, errors in results(together, plan).items()}
            tried.append((sum(scores.values()) / len(scores), sorted(steps), plan))
        best, steps, plans[count] = min(tried, key=lambda each: each[0])
        print(f"{count}: {best:.3f} of {[round(each[0], 3) for each in tried]}, steps {steps}", flush=True)
    about = {
        "models": names,
        "samplers": list(SAMPLERS[options.kind]),
        "guidance": {name: list(GUIDANCE[name]) for name in names},
        "steps": STEPS,
        "samples": SAMPLES,
        "wary": options.wary,
    }
    default = shipped() / f"{universal(options.kind)}.json"
    default = FOLDER / f"without-{options.without}.json" if options.without else default
    out = options.out or default
    out.parent.mkdir(parents=True, exist_ok=True)
    c4d.Profile(options.kind, plans, None, about, {}, 14 if 14 in plans else None).save(out)
    print(f"written: {out}")
    return 0


def shipped() -> Path:
    return Path(str(files("c4d.core.methods") / "profiles"))


if __name__ == "__main__":
    sys.exit(main())
