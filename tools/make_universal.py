"""Makes the universal profile: one for any model that predicts a flow, taught by the bundled ones.

    python -m tools.make_universal [--without NAME] [--out FILE] [--computed 25/20/17/14/12/10/8/6]

Each model is a pair of settings: a sampler and the guidance that it is used with, the other sampler and more guidance;
50 steps, shift 3. glyph-dit, which predicts noise, is sampled as a flow (tools/as_flow.py). The shape of the schedules
is the one of c4d/calibrate/starts.py that suits these settings best at 14 computed steps. --without leaves a model out,
to judge the result on it (bench.profiles reads docs/measurements/profiles/without-NAME.json).
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
from bench.yardsticks import FOLDER, SEED, SHORT, Yardstick, flow_sampler
from c4d.calibrate.fit import Fit
from c4d.calibrate.joint import TRUST, Setting, fit_jointly, results
from c4d.calibrate.lockstep import Samplings
from c4d.calibrate.pipeline import sampling
from c4d.calibrate.reference import record
from c4d.calibrate.search import score
from c4d.calibrate.starts import SHAPES
from c4d.calibrate.tune import latents_given
from c4d.core.caching.profiles import universal
from c4d.core.caching.solver import Plan
from c4d.models import spec_for
from tools import as_flow
from tools.make_profiles import COMPUTED

STEPS, SAMPLES, SHIFT = 50, 4, 3.0
DEFAULT = 14  # computed steps, for which the shape of the schedule is chosen
SETTINGS = {  # sampler and guidance
    "wan-tiny": (("unipc", 4.0), ("euler", 6.0)),
    "flux-tiny": (("euler", 3.5), ("unipc", 6.0)),
    "glyph-dit": (("euler", 3.0), ("unipc", 5.0)),
}


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


def samplings(name: str, sampler: str, guidance: float) -> Samplings:
    yardstick, scheduler = Yardstick(name), flow_sampler(sampler, SHIFT)
    if sampler == "euler":
        scheduler = Aligned.from_config(scheduler.config)
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
        yield Setting(f"{name}, {sampler}, {guidance:g}", Fit(made, record(made)))


def judged(settings: Sequence[Setting], steps: frozenset[int]) -> tuple[float, Plan]:
    """The mean score of the settings under the plan that they teach, and it."""
    plan = fit_jointly(settings, steps)
    scores = [score(errors) for errors in results(settings, plan).values()]
    return sum(scores) / len(scores), plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", choices=SETTINGS)
    parser.add_argument("--computed", default="/".join(map(str, COMPUTED)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    names = [name for name in SETTINGS if name != options.without]
    together = [setting for name in names for setting in settings(name)]
    print(f"{len(together)} settings of {', '.join(names)}", flush=True)
    shape = min(SHAPES, key=lambda each: judged(together, each.steps(DEFAULT, STEPS))[0])
    print(shape, flush=True)
    plans = dict[int, Plan]()
    for count in map(int, options.computed.split("/")):
        steps = shape.steps(count, STEPS)
        found, plans[count] = judged(together, steps)
        print(f"{count}: {found:.3f}, steps {sorted(steps)}", flush=True)
    about = {
        "models": names,
        "settings": [setting.name for setting in together],
        "shift": SHIFT,
        "steps": STEPS,
        "samples": SAMPLES,
        "trust": list(TRUST),
        "shape": list(shape),
    }
    shipped = Path(str(files("c4d.core.methods") / "profiles")) / f"{universal('flow')}.json"
    out = options.out or (FOLDER / f"without-{options.without}.json" if options.without else shipped)
    out.parent.mkdir(parents=True, exist_ok=True)
    c4d.Profile("flow", plans, None, about, {}, DEFAULT if DEFAULT in plans else None).save(out)
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
