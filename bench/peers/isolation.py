"""Does a request leave traces in the next one, and is a mistake told? c4d, cache-dit and diffusers' own hooks.

    python -m bench.peers.isolation [--threads 1]

A small random Wan transformer, classifier-free guidance, one request after another in a loop of one's own. Writes
docs/measurements/peers/isolation.md; fails (exit 1) if c4d leaks in any case.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import peers
from bench.peers.mistakes import mistakes
from bench.peers.rig import OURS, STEPS, Attach, Bench, Stop, others, short
from bench.stamp import ROOT

OUT = ROOT / "docs/measurements/peers/isolation.md"

BEFORE: dict[str, dict[str, Any]] = {
    "the same request": {},
    f"a request given up in step {STEPS // 2}": {"stop": STEPS - 1},
    "a request without one unconditional pass": {"skip": (4,)},
    "a request of 6 steps": {"steps": 6},
    "a request of another size": {"size": (16, 24)},
}
SKIPPED = "unconditional pass left out of step 4"


@dataclass(frozen=True)
class Cell:
    """Relative error to the uncached request and whether the system's own fresh result differs; or what it raised."""

    error: float
    leaks: bool
    raised: str = ""

    def __str__(self) -> str:
        return self.raised or (f"**{self.error:.4f}**" if self.leaks else f"{self.error:.4f}")


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def column(attach: Attach) -> dict[str, Cell | str]:
    """Case -> what one system made of it."""
    uncached = Bench().request()
    bench = Bench()
    with attach(bench.model, bench.scheduler) as begin:
        begin()
        fresh = bench.request()
    cells: dict[str, Cell | str] = {"fresh": Cell(relative(fresh, uncached), False), "computed": bench.share()}
    for name, change in BEFORE.items():
        for reset in (False, True):
            cells[f"after {name}, {'reset' if reset else 'no reset'}"] = _after(attach, change, reset, fresh, uncached)
    uncached = Bench().request(guided=False)
    made = {}
    for skip in ((), (4,)):
        bench = Bench()
        with attach(bench.model, bench.scheduler) as begin:
            begin()
            made[skip] = bench.request(guided=False, skip=skip), bench.line("cond")
    (whole, usual), (less, shifted) = made.values()
    cells[SKIPPED] = Cell(relative(less, uncached), not torch.equal(whole, less))
    cells["cond's passes then, and otherwise"] = f"`{shifted}` `{usual}`"
    return cells


def _after(attach: Attach, change: dict[str, Any], reset: bool, fresh: Tensor, uncached: Tensor) -> Cell:
    bench = Bench()
    with attach(bench.model, bench.scheduler) as begin:
        begin()
        try:
            with suppress(Stop):
                bench.request(**change)
            if reset:
                begin()
            out = bench.request()
        except Exception as error:  # the measurement: any error at all is this system's answer
            return Cell(float("nan"), True, f"raises {short(error)}")
    return Cell(relative(out, uncached), not torch.equal(out, fresh))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    peers.versions()  # the error of a peer that is missing comes before the work
    columns = {name: column(attach) for name, attach in {**OURS, **others()}.items()}
    leaks = [
        f"{name}: {case}"
        for name in OURS
        for case, cell in columns[name].items()
        if isinstance(cell, Cell) and cell.leaks
    ]
    unhelped = [
        f"{name}, {case}"
        for name, cells in columns.items()
        for case, cell in cells.items()
        if case.endswith(", reset") and isinstance(cell, Cell) and cell.leaks
    ]
    lines = [
        "# Does one request leave traces in the next?",
        "",
        *table(columns),
        "",
        f"A random Wan transformer in a loop of one's own, {STEPS} steps with guidance, passes named by "
        "`cache_context`. Numbers are relative L2 errors of all guided predictions to those of the same request "
        "uncached, each system at its own schedule: they are to be compared down a column, not along a row. **Bold**: "
        "not bit for bit what the same system makes when fresh, so something of what came before is in it, whether "
        "that made the error larger or smaller. *Reset* is what the systems ask of library users before a request: "
        "`cache_dit.refresh_context(...)`, diffusers' private `_reset_stateful_cache()`; "
        "c4d has none, so both rows run the same. Pipelines reset for their users (cache-dit's at every call, "
        "diffusers' at the end of one that came to its end), so that this concerns loops of one's own, servers, and "
        "requests given up.",
        "",
        "In the rows of the unconditional pass left out, the latents move by the conditional prediction alone, so that "
        "the errors are those of the conditional passes, which should be the same bit for bit whether or not the other "
        "pass is run. Their passes: C all blocks computed, r fewer.",
        "",
        f"After a reset differs from fresh: {'; '.join(unhelped) if unhelped else 'nothing'}. "
        "c4d leaks: " + (f"**{'; '.join(leaks)}**." if leaks else "nowhere."),
        "",
        "## Silent failures",
        "",
        "| mistake | system | what happens |",
        "|---|---|---|",
        *(f"| {what} | {who} | {happened} |" for what, who, happened in mistakes()),
        "",
        "The NaN is among the first latents, so that every measurement is one; a result is lost in any case, and the "
        "question is whether anybody is told.",
    ]
    peers.publish(OUT, lines, options.threads)
    return 1 if leaks else 0


def table(columns: dict[str, dict[str, Cell | str]]) -> list[str]:
    cases = list(next(iter(columns.values())))
    return [
        "| request | " + " | ".join(columns) + " |",
        "|---" * (1 + len(columns)) + "|",
        *(f"| {case} | " + " | ".join(str(column[case]) for column in columns.values()) + " |" for case in cases),
    ]


if __name__ == "__main__":
    sys.exit(main())
