"""Makes the universal profile: one for any model that predicts a flow, taught by the bundled ones.

    python -m tools.make_universal [--without NAME] [--out FILE] [--computed 25/14/10/6] [--trials 30]

Each model is a pair of settings: a sampler and the guidance that it is used with, the other sampler and more guidance;
50 steps, shift 3. glyph-dit, which predicts noise, is sampled as a flow (tools/as_flow.py). For each number of computed
steps the search begins with the models' own schedules and their mean; see c4d/calibrate/joint.py. --without leaves a
model out, to judge the result on it (bench.profiles reads docs/measurements/profiles/without-NAME.json).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import c4d
from bench.yardsticks import FLOW, FOLDER, KINDS, SHORT, Yardstick
from c4d.calibrate.fit import Fit
from c4d.calibrate.joint import TRUST, Setting, Together
from c4d.calibrate.lockstep import Samplings
from c4d.calibrate.pipeline import sampling
from c4d.calibrate.reference import record
from c4d.calibrate.search import Allowance, stretched
from c4d.calibrate.tune import latents_given
from c4d.core.caching.profiles import named, universal
from c4d.core.caching.solver import Plan
from c4d.models import spec_for
from tools import as_flow
from tools.make_profiles import SEED

STEPS, SAMPLES, SHIFT = 50, 4, 3.0
SETTINGS = {  # sampler and guidance
    "wan-tiny": (("unipc", 4.0), ("euler", 6.0)),
    "flux-tiny": (("euler", 3.5), ("unipc", 6.0)),
    "glyph-dit": (("euler", 3.0), ("unipc", 5.0)),
}
COMPUTED = (25, 14, 10, 6)  # those between are interpolated


class Aligned(FlowMatchEulerDiscreteScheduler):
    """Euler at the noise levels that pipelines of pictures give it; UniPC takes them by itself."""

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


def scheduler_of(sampler: str) -> Any:
    import diffusers

    if sampler == "euler":
        return Aligned(shift=SHIFT)
    return getattr(diffusers, KINDS[sampler])(**FLOW, flow_shift=SHIFT)


def samplings(name: str, sampler: str, guidance: float) -> Samplings:
    yardstick, scheduler = Yardstick(name), scheduler_of(sampler)
    if not yardstick.flow:
        return as_flow.samplings(
            yardstick.pipe, scheduler, guidance=guidance, steps=STEPS, count=2 * SAMPLES, seed=SEED
        )
    prompts = yardstick.learning()[:: 16 // SAMPLES]
    pipe = copy.copy(yardstick.pipe)  # of the same modules
    pipe.register_modules(scheduler=scheduler)
    call = {**yardstick.call(num_inference_steps=STEPS, guidance_scale=guidance), **SHORT.get(name, {})}
    generate, count = sampling(pipe, prompts, seed=SEED, batch=SAMPLES, call=call)
    read = [partial(latents_given, pipe.transformer, spec_for(pipe.transformer))]
    return Samplings([pipe.transformer], scheduler, generate, count, read)


def settings(name: str) -> Iterator[Setting]:
    for sampler, guidance in SETTINGS[name]:
        made = samplings(name, sampler, guidance)
        yield Setting(f"{name}, {sampler}, {guidance:g}", name, Fit(made, record(made)))


def schedules(names: Sequence[str], count: int, levels: Sequence[float]) -> list[frozenset[int]]:
    """The own ones of models that predict a flow, and their mean."""
    profiles = [c4d.Profile.load(named()[name]) for name in names]
    own = [profile.plan(count) for profile in profiles if profile.kind == "flow"]
    mean = [sum(level) / len(own) for level in zip(*(plan.computed for plan in own), strict=True)]
    found = [plan.steps(levels) for plan in (*own, Plan(tuple(mean)))]
    return [steps for steps in dict.fromkeys(found) if len(steps) == count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", choices=SETTINGS)
    parser.add_argument("--computed", default="/".join(map(str, COMPUTED)))
    parser.add_argument("--trials", type=int, default=30, help="schedules tried for each number of computed steps")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    names = [name for name in SETTINGS if name != options.without]
    together = [setting for name in names for setting in settings(name)]
    levels = together[0].fit.reference.levels
    print(f"{len(together)} settings of {', '.join(names)}", flush=True)
    plans, tried, before = dict[int, Plan](), dict[int, dict[str, Any]](), frozenset[int]()
    for count in sorted(map(int, options.computed.split("/")), reverse=True):
        started, search = time.monotonic(), Together(together)
        begin = schedules(names, count, levels)
        begin += [stretched(sorted(before), count, STEPS)] if before else []
        allowed = Allowance(options.trials)
        before = search.run(begin, allowed)
        plans[count], tried[count] = search.plan(before), {"tried": allowed.used}
        took = time.monotonic() - started
        print(f"{count}: {search.journal[before]:.3f}, steps {sorted(before)}, {took:.0f} s", flush=True)
    about = {
        "models": names,
        "settings": [setting.name for setting in together],
        "shift": SHIFT,
        "steps": STEPS,
        "samples": SAMPLES,
        "trust": list(TRUST),
    }
    shipped = Path(str(files("c4d.core.methods") / "profiles")) / f"{universal('flow')}.json"
    out = options.out or (FOLDER / f"without-{options.without}.json" if options.without else shipped)
    out.parent.mkdir(parents=True, exist_ok=True)
    c4d.Profile("flow", plans, None, about, tried, 14 if 14 in plans else None).save(out)
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
