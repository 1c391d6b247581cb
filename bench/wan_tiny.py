"""Adherence of the bundled model, uncached: the level that a cache is compared with.

    python -m bench.wan_tiny

Generates 48 clips of combinations seen in training and 48 of held-out ones, for each prompt length, prints a table and
writes it with machine, versions and commit to docs/measurements/wan-tiny/adherence.md, with a contact sheet beside it.
Exits with status 1 when a threshold is broken.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.stamp import ROOT, stamp
from c4d.bundled import Adherence, adherence, caption, evaluation_set, generate, render
from c4d.metrics import contact_sheet, psnr

THRESHOLDS = (("colour", 0.97), ("shape", 0.9), ("motion", 0.97), ("background", 0.97))
SETS = (("seen", "seen in training"), ("held_out", "held out"))
SHEET_CLIPS = 5  # of each set


@dataclass(frozen=True)
class Row:
    name: str
    length: int | None
    scores: Adherence
    seconds: float | None

    def text(self) -> str:
        s = self.scores
        values = [s.colour, s.shape, s.motion, s.background, s.all_four, s.shape_iou]
        seconds = "" if self.seconds is None else f"{self.seconds:.2f}"
        cells = [self.name, str(self.length or ""), *(f"{value:.3f}" for value in values), str(s.clips), seconds]
        return "| " + " | ".join(cells) + " |"

    def broken(self) -> list[str]:
        return [
            f"{self.name}, length {self.length}: {field} {getattr(self.scores, field):.3f} is below {least}"
            for field, least in THRESHOLDS
            if getattr(self.scores, field) < least
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.wan_tiny", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "c4d" / "bundled" / "wan_tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements" / "wan-tiny")
    parser.add_argument("--name", default="adherence", help="of the two files that are written (default adherence)")
    parser.add_argument("--clips", type=int, default=48, help="of each set (default 48)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[512, 16], help="max_sequence_length (default 512 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="is added to every noise seed (default 0)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    given = sys.argv[1:] if arguments is None else list(arguments)

    rows, sheet_videos, agreement = measure(options)
    columns = ["", "length", "colour", "shape", "motion", "background", "all four", "shape IoU", "clips", "s a clip"]
    table = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *(row.text() for row in rows)]
    broken = [line for row in rows if row.length for line in row.broken()]
    command = shlex.join(["python", "-m", "bench.wan_tiny", *given])
    page = report(options, table, agreement, broken, command)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text(page)
    labels = [caption(a) for name, _ in SETS for a in _sheet_part(evaluation_set(name, options.clips)[0])]
    titles = [f"max_sequence_length {length}" for length in options.lengths]
    sheet = contact_sheet(sheet_videos, labels, titles=titles, frame_height=64)
    sheet.save(options.out / f"{options.name}.png", optimize=True)
    print(page)
    return 1 if broken else 0


def measure(options: argparse.Namespace) -> tuple[list[Row], list[Tensor], list[str]]:
    """-> the rows of the table, the clips of the sheet for each length, and how far apart the lengths are."""
    from diffusers import WanPipeline

    pipe: Any = WanPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    asked, _ = evaluation_set("seen", options.clips)
    drawn = render(asked, torch.Generator().manual_seed(4))
    rows = [Row("drawn clips (no model)", None, adherence(drawn, asked), None)]
    videos: dict[tuple[str, int], Tensor] = {}
    for length in options.lengths:
        for name, title in SETS:
            asked, seeds = evaluation_set(name, options.clips, seed=options.seed)
            started = time.perf_counter()
            video = generate(
                pipe,
                asked,
                seeds,
                steps=options.steps,
                guidance_scale=options.guidance_scale,
                max_sequence_length=length,
            )
            seconds = (time.perf_counter() - started) / len(asked)
            rows.append(Row(title, length, adherence(video, asked), seconds))
            videos[name, length] = video
            print(rows[-1].text(), flush=True)
    sheet = [torch.cat([_sheet_part(videos[name, length]) for name, _ in SETS]) for length in options.lengths]
    first = options.lengths[0]
    agreement = []
    for length in options.lengths[1:]:
        for name, title in SETS:
            quality = psnr(videos[name, length], videos[name, first])
            values = f"mean {quality.mean():.1f} dB, least {quality.min():.1f} dB"
            agreement.append(f"length {length} against {first}, {title}: PSNR {values}")
    return rows, sheet, agreement


def report(
    options: argparse.Namespace, table: Sequence[str], agreement: Sequence[str], broken: Sequence[str], command: str
) -> str:
    kept = ", ".join(f"{field} >= {least}" for field, least in THRESHOLDS)
    verdict = "kept by every generated row" if not broken else "broken: " + "; ".join(broken)
    seeds = ", ".join(f"{title} from {evaluation_set(name, 1, seed=options.seed)[1][0]}" for name, title in SETS)
    lines = [
        "# Adherence of wan-tiny, uncached",
        "",
        "Fractions of the clips in which the judge (`c4d/bundled/judge.py`) sees what the prompt asked for.",
        f"UniPC, {options.steps} steps, guidance {options.guidance_scale:g}, one noise generator a clip ({seeds}).",
        "",
        *table,
        "",
        *(f"- {line}" for line in agreement),
        f"- Thresholds ({kept}): {verdict}.",
        f"- Contact sheet: {options.name}.png, the two lengths side by side.",
        "- The seconds are wall time of batches of 24 on a shared machine: an order of magnitude, not a benchmark.",
        "",
        *stamp(command, options.threads),
    ]
    return "\n".join(lines) + "\n"


def _sheet_part(clips: Any) -> Any:
    """A few clips of a sequence of clips or attributes, at a stride that is out of step with their order."""
    stride = max(1, len(clips) // SHEET_CLIPS - 2)
    return clips[::stride][:SHEET_CLIPS]


if __name__ == "__main__":
    sys.exit(main())
