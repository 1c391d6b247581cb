"""How close every method comes to the uncached clip, and at what cost: ``c4d compare`` on the three yardsticks.

    python -m bench.fidelity [--yardsticks wan-tiny …] [--samples 16] [--minutes 8] [--render]

Each model with its own sampler, 50 steps, on prompts and noise that nothing was learned from: its shipped profile, the
settings of c4d's methods and of other libraries' that bench.profiles found best on the calibration prompts, BudCache,
MeanCache, and the settings that docs/methods.md lists, beside plain steps and plain steps at searched noise levels.
What is measured is kept in out/fidelity, so that an interrupted run goes on; docs/measurements/fidelity gets the tables
(CSV), and what --render writes of them alone: plots and page. The page for a browser stays in
out/fidelity/MODEL/index.html.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torch

from bench import others
from bench.compared import arguments, compared, stamps
from bench.fidelity import page, plot
from bench.fidelity.advice import shown
from bench.fidelity.table import FOLDER, read
from bench.profiles import baselines
from bench.profiles.results import Results
from bench.settings import STEPS, best, by_method, by_peer, grid, learned, learning
from bench.stamp import ROOT
from bench.yardsticks import FOLDER as PROFILES
from bench.yardsticks import HELD, Yardstick
from c4d.calibrate.reference import record
from c4d.core.caching.profiles import for_model
from c4d.core.integration.transformers import signature
from c4d.pipelines.output import write_text
from c4d.pipelines.peers import Peer

OWN = {"wan-tiny": "unipc", "flux-tiny": "euler", "glyph-dit": "euler"}  # the sampler of each
COSTS = (26, 20, 14, 10, 8)  # computed steps at which the methods are compared
OUT = ROOT / "out" / "fidelity"
DRAWN = 16  # prompts, of which --samples takes the first


def texts(yardstick: Yardstick, tuned: Results) -> list[str]:
    """c4d's own contenders."""
    sampler = OWN[yardstick.name]
    known = tuned.tuned.get(f"{yardstick.name} | {sampler}", {})
    named = dict(grid(yardstick.name, learned(yardstick, sampler)))
    own = for_model(signature(yardstick.pipe.transformer), type(yardstick.pipe.scheduler).__name__)
    assert own is not None  # each bundled model has one
    found = [f"profile:{own[0]},computed={count}" for count in COSTS if count <= 20]
    found += [named[name] for name in best({name: known.get(name) for name in named}, by_method, COSTS)]
    return list(dict.fromkeys([*found, *(in_pages() if yardstick.name == "wan-tiny" else [])]))


def in_pages() -> list[str]:
    """The settings that pages list or show, which need no file."""
    listed, taken = shown()
    return [
        each for each in dict.fromkeys([*listed, *taken]) if "path=" not in each and not each.startswith("profile:")
    ]


def peers(yardstick: Yardstick, tuned: Results) -> list[Peer]:
    """Other libraries' settings that were best, and the two methods that are written from their papers."""
    known = tuned.tuned.get(f"{yardstick.name} | {OWN[yardstick.name]}", {})
    run = partial(yardstick.make, *learning(yardstick, 4), num_inference_steps=STEPS)
    there = {each.name: each for each in others.all_of(yardstick.pipe, STEPS, run)}
    found = [there[name] for name in best({name: known.get(name) for name in there}, by_peer, COSTS)]
    searched = [tuned.rows.get(f"{yardstick.name} | {OWN[yardstick.name]} | budcache,computed={n}") for n in COSTS]
    steps = [row["steps"] for row in searched if row is not None and "steps" in row]
    found += [baselines.peer("BudCache", baselines.budcache(each), len(each)) for each in steps]
    if yardstick.flow:
        reference = record(yardstick.samplings(*learning(yardstick), num_inference_steps=STEPS))
        planned = [baselines.planned(reference, count) for count in COSTS]
        found += [baselines.peer("MeanCache", baselines.meancache(each), len(each)) for each in planned]
    return found


def measure(name: str, options: argparse.Namespace) -> None:
    """One yardstick."""
    yardstick, tuned = Yardstick(name), Results(PROFILES / "results.json")
    how = {"drawn": DRAWN, "minutes": options.minutes, "peers": peers(yardstick, tuned)}
    compared("bench.fidelity", name, options, texts(yardstick, tuned), OUT, FOLDER, **how)


def main() -> int:
    parser = arguments(__doc__, DRAWN)
    parser.add_argument("--minutes", type=float, default=8.0, help="of the search for noise levels, for each model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for name in () if options.render else options.yardsticks:
            measure(name, options)
    found = {name: read(FOLDER / f"{name}.csv") for name in HELD if (FOLDER / f"{name}.csv").exists()}
    for name, entries in found.items():
        plot.draw(name, entries, FOLDER / f"{name}.png")
        plot.pictures(entries, OUT / name, FOLDER / f"{name}-pictures.png")
    write_text(FOLDER / "README.md", page.write(found, stamps(FOLDER, found)))
    print(f"written: {FOLDER}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
