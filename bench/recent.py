"""Token-wise, speculative and guidance methods, and those of 2026: ``c4d compare`` on the three yardsticks.

    python -m bench.recent [--yardsticks wan-tiny …] [--samples 8] [--render]

Each model with its own sampler, 50 steps, on prompts and noise that nothing was learned from. All settings that were
tried are shown: none was chosen on other prompts before, unlike in bench.fidelity. What is measured is kept in
out/recent, so that an interrupted run goes on; docs/measurements/recent gets the tables (CSV), and the page of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from bench.compared import arguments, compared, stamps
from bench.fidelity.page import tables, where
from bench.fidelity.table import read
from bench.settings import STEPS
from bench.stamp import ROOT
from bench.yardsticks import HELD, Yardstick
from c4d.backends import load
from c4d.core.text.grammar import parse
from c4d.pipelines.errors import InputError
from c4d.pipelines.output import write_text
from c4d.pipelines.skeleton import check_method

OUT, FOLDER = ROOT / "out/recent", ROOT / "docs/measurements/recent"
HEAD = """# Token-wise, speculative and guidance methods, and those of 2026

`c4d compare` on the three bundled models, each with its own sampler, 50 steps, on prompts and noise that nothing was
learned from. These are small models of few tokens; no large one has been measured. All settings that were tried are
here; none was chosen on other prompts before. TaylorSeer and TaylorSeer-Lite stand among them for comparison.

*Computed* is the share of the FLOPs of an uncached run. A setting stands beside the fewest plain steps that cost at
least as much; the difference in PSNR is paired by prompt, with the 95 % interval of a percentile bootstrap. With eight
prompts an interval is wide. PSNR (dB) and SSIM are means and the worst picture.
"""


def settings() -> Iterator[str]:
    for every in (3, 4, 6):
        yield f"taylorseer-lite:interval={every},last=1"
        yield f"taylorseer:interval={every}"
        yield f"toca:interval={every}"
        yield f"toca:interval={every},ratio=0.3,bonus=0.4"
        yield f"duca:interval={every}"
        yield f"clusca:interval={every}"
        yield f"clusca:interval={every},share=0.1"
    for threshold in (0.1, 0.2, 0.4):
        yield f"speca:threshold={threshold},max_drafts=5"
        yield f"speca:threshold={threshold},max_drafts=5,mode=strict"
        yield f"dicache:threshold={threshold}"
    for weight in (0.5, 1.0):
        yield f"spectrum:weight={weight}"
    for every in (2, 3):
        yield f"delta-dit:interval={every},first=3,last=3"
    for every in (2, 5):
        yield f"cfg-cache:interval={every}"
    for ratio in (0.2, 0.4):
        yield f"cfg-skip:ratio={ratio}"
    yield "guidance-interval:low=0.2"
    yield "pab:attn=2,cross_attn=4,mlp=2,mlp_at=800/600/400/200"


def fitting(name: str) -> Iterator[str]:
    """Those that the model can be cached by; which cannot is said."""
    pipe, backend = Yardstick(name).pipe, load("cpu")
    for text in settings():
        try:
            check_method(pipe, parse(text), backend=backend, steps=STEPS)
        except InputError as error:
            print(f"left out on {name}: {error}")
            continue
        yield text


def main() -> int:
    options = arguments(__doc__, 8).parse_args()
    torch.set_num_threads(options.threads)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for name in () if options.render else options.yardsticks:
            compared("bench.recent", name, options, fitting(name), OUT, FOLDER, drawn=options.samples)
    found = [name for name in HELD if (FOLDER / f"{name}.csv").exists()]
    lines = [HEAD]
    for name in found:
        lines += [f"## {name}", "", *tables(read(FOLDER / f"{name}.csv")), ""]
    write_text(FOLDER / "README.md", "\n".join([*lines, *where(stamps(FOLDER, found))]).rstrip() + "\n")
    print(f"written: {FOLDER}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
