"""The programs in examples/, made shorter: what tests run of them."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "examples"
RANKS = "several_ranks.py"  # which tests/parallel runs
SHORTER = (  # twelve steps, of which a profile computes six; no search; five frames, text as long as these prompts are
    (r"STEPS, COMPUTED = 50, 14", "STEPS, COMPUTED = 12, 6"),
    (r"computed=1[24]", "computed=6"),
    (r"\b(STEPS|steps|num_inference_steps)(\s*=\s*)(?:50|20)\b", r"\1\g<2>12"),
    (r"minutes=0\.1", "minutes=0"),
    (r"height=32,", "max_sequence_length=16, height=32,"),
    (r"num_frames=13", "num_frames=5"),
)


def shorter(source: str) -> str:
    for pattern, text in SHORTER:
        source = re.sub(pattern, text, source)
    return source


def run(source: str, name: str) -> dict[str, object]:
    """What it left in its scope."""
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(shorter(source), name, "exec"), scope)
    return scope
