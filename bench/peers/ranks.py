"""Two ranks of one request: do they take the same decisions, is the result right, and what do they send each other?

    python -m bench.peers.ranks

c4d, diffusers and cache-dit on a CPU (gloo), small random models, a job of torchrun for every cell. Writes
docs/measurements/peers/ranks.md; fails (exit 1) if ranks under c4d part, or a result of it is wrong.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import peers, processes
from bench.peers.rank import GRIDS, RANKS, STEPS, SYSTEMS, WAITS
from bench.peers.rig import BLOCKS
from bench.stamp import ROOT

OUT = ROOT / "docs/measurements/peers/ranks.md"
LIMIT = 60  # seconds for a job, of which starting it takes most
DECIDING = ("c4d Ulysses", "c4d, each rank deciding alone", "diffusers Ulysses", "cache-dit Ulysses")
EXACT = 5e-6


def job(trial: str, system: str) -> list[dict[str, Any]]:
    """What each rank said, and whether it came to an end."""
    with tempfile.TemporaryDirectory(prefix="c4d-ranks-") as folder:
        command = [*processes.torchrun(RANKS), "-m", "bench.peers.rank", folder, trial, system]
        settings = {"OMP_NUM_THREADS": "1", "C4D_RANKS_LIMIT": str(LIMIT)}
        _, lines = processes.run(command, LIMIT + 15, **settings)  # ranks that hang end themselves before
        paths = [Path(folder) / f"{rank}.json" for rank in range(RANKS)]
        said = [json.loads(path.read_text()) if path.exists() else {} for path in paths]
    print(trial, system, said, "" if all(said) else "\n".join(lines)[-3000:], flush=True)
    return said


def cell(said: list[dict[str, Any]]) -> str:
    """Of an exact trial: the largest error and the most bytes of a rank."""
    if raised := [rank["raised"] for rank in said if "raised" in rank]:
        return f"raises {raised[0]}"
    if not all("error" in rank for rank in said):
        return "its processes end without a word"
    worst = max(rank["error"] for rank in said)
    sent = max(rank["bytes"] for rank in said)
    wrong = "**" if worst > EXACT else ""
    return f"{wrong}{worst:.1e}{wrong}; {sent} bytes in {max(rank['collectives'] for rank in said)} collectives"


def outcome(said: list[dict[str, Any]]) -> str:
    """Of a planted threshold: whether all ranks came to an end, and how."""
    if all(rank.get("done") for rank in said):
        same = len({rank["passes"] for rank in said}) == 1
        return "the same decisions; completes" if same else "**different decisions**; completes"
    if not any(said):
        return "its processes end without a word"
    parted = "**the ranks part**; " if len({(rank.get("passes"), rank.get("ran")) for rank in said}) > 1 else ""
    raised = [rank["raised"] for rank in said if "raised" in rank]
    return parted + (f"raises {raised[0]}" if raised else f"ended after {LIMIT} s")


def path(rank: dict[str, Any]) -> str:
    """Passes that ended, and how many blocks the one ran that did not."""
    if "passes" not in rank:
        return "nothing"
    return f"`{rank['passes'] or '-'}`" + ("" if rank.get("done") else f", then {rank['ran']} of {BLOCKS} blocks")


def row(said: list[dict[str, Any]]) -> str:
    if not all("threshold" in rank for rank in said):
        return f"| | | | {outcome(said)}"
    ratios = ", ".join(f"{rank['ratio']:.4f}" for rank in said)
    return f"{ratios} | {said[0]['threshold']:.4f} | {' | '.join(map(path, said))} | {outcome(said)}"


def main() -> int:
    peers.versions()  # the error of a peer that is missing comes before the work
    decisions = {system: job("planted", system) for system in DECIDING}
    results = {
        system: {trial: job(trial, system) for trial in GRIDS} for system in SYSTEMS if system not in DECIDING[1:2]
    }
    failed = [system for system in DECIDING[:1] if "the same" not in outcome(decisions[system])]
    for system in ("c4d Ulysses", "c4d Ring"):
        for trial, said in results[system].items():
            if not all(rank.get("error", 1.0) <= EXACT for rank in said):
                failed.append(f"{system}, {trial}")
    lines = [
        "# Do the ranks of one request agree, and is what they make together right?",
        "",
        "## A threshold between what two ranks measure",
        "",
        "| system | local changes in the second step | threshold | rank 0 | rank 1 | |",
        "|---|---|---|---|---|---|",
        *(f"| {system} | {row(said)} |" for system, said in decisions.items()),
        "",
        f"First-Block Cache (cache-dit: DBCache with one block) in a loop of {STEPS} steps, tokens spread over {RANKS} "
        "ranks by Ulysses. Each rank's change is the relative L1 change of the first block's residual over its own "
        "tokens, measured beforehand. Passes that came to an end: C all blocks computed, r fewer. A rank that "
        "computes meets the others in every block; one that reuses does not come there. "
        f"Groups give up after {WAITS:.0f} s here, so that ranks which wait for each other end. In the second row c4d "
        "is made to decide as diffusers does, by each rank's own numbers; it offers no such option.",
        "",
        "## One forward, against one process",
        "",
        "| system | " + " | ".join(GRIDS) + " |",
        "|---" * (1 + len(GRIDS)) + "|",
        *(
            f"| {system} | " + " | ".join(cell(said) for said in cells.values()) + " |"
            for system, cells in results.items()
        ),
        "",
        f"Largest absolute error in fp32 (**bold** above {EXACT:.0e}; predictions are of the order of 1) and what one "
        "rank sends, counted as torch's dispatcher sees the collectives of each system: all but what stays on the "
        "rank. A Wan transformer of 8 blocks with 4 heads of 16, 192 tokens unless told otherwise; the last column a "
        "HunyuanVideo transformer with two samples whose texts differ in length. diffusers ships no plan for "
        "HunyuanVideo.",
    ]
    peers.publish(OUT, lines, 1)
    if failed:
        print("failed:", "; ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
