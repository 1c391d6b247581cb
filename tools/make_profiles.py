"""Makes the profiles that come with c4d for its bundled models, in c4d/core/methods/profiles.

    python -m tools.make_profiles MODEL [--trials 200] [--computed 14/10] [--samples 36] [--work DIR]

It learns from prompts of the kind that the model was trained on, under noise seeds that no measurement uses. With the
same number of trials, versions and threads the result is the same; an interrupted run goes on from DIR. Where there is
a profile already, the search begins with its schedules, and plans of other numbers of computed steps stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import torch

import c4d
from c4d.bundled import BUNDLED, clips, compositions, glyphs
from c4d.calibrate.pipeline import besides
from c4d.pipelines import Request, call_arguments, load_pipeline

T = TypeVar("T")
COMPUTED = (25, 20, 17, 14, 12, 10, 8, 6)
SEED = 400_000  # of the first prompt's noise; measurements use seeds below
PROMPTS: dict[str, Callable[[int], list[str]]] = {
    "wan-tiny": lambda count: [clips.caption(row) for row in spread(clips.TRAIN, count)],
    "flux-tiny": lambda count: [compositions.caption(each) for each in spread(compositions.TRAIN, count)],
    "glyph-dit": lambda count: spread(glyphs.LETTERS, count),
}
SHORT = {"wan-tiny": {"max_sequence_length": 16}}  # its prompts are nine words: padding costs time and changes nothing


def spread(pool: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly over the pool."""
    return [pool[i * len(pool) // count] for i in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=PROMPTS)
    parser.add_argument("--trials", type=int, default=200, help="schedules tried for each number of computed steps")
    parser.add_argument("--computed", default="/".join(map(str, COMPUTED)), help="numbers of computed steps")
    parser.add_argument("--samples", type=int, default=36, help="that are learned from, each of another prompt")
    parser.add_argument("--work", type=Path, help="folder that an interrupted run goes on from")
    parser.add_argument("--out", type=Path, default=Path(str(files("c4d.core.methods") / "profiles")))
    options = parser.parse_args()
    torch.set_num_threads(1)
    prompts, model = PROMPTS[options.model](options.samples), BUNDLED[options.model]
    pipe = load_pipeline(options.model, backend=c4d.backends.select("cpu"))
    pipe.set_progress_bar_config(disable=True)
    call = call_arguments(pipe, Request(prompts[0]).with_defaults(model.defaults))
    call = besides(call)
    call |= SHORT.get(options.model, {})
    path = options.out / f"{options.model}.json"
    profile = c4d.tune(
        pipe,
        prompts=prompts,
        computed=[int(count) for count in options.computed.split("/")],
        trials=options.trials,
        seed=SEED,
        work=options.work,
        about={"model": options.model, "dtype": "float32"},
        begin=c4d.Profile.load(path) if path.exists() else None,
        progress=lambda line: print(line, flush=True),
        **call,
    )
    if path.exists():
        before = c4d.Profile.load(path)
        profile = replace(before.with_plans(profile), default=before.default)
    options.out.mkdir(parents=True, exist_ok=True)
    profile.save(path)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
