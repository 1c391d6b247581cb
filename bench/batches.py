"""What a clip loses to those that share its batch, and what it does not: alone, and batch=mean, worst, each.

    python -m bench.batches [--samples 8] [--batch 4]

Held-out samples of the yardsticks; each adaptive method at one threshold. Closeness is PSNR to the uncached sample,
made alone; "computed" is the part of the forwards' samples that were computed. Writes docs/measurements/batches.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import c4d
from bench.stamp import ROOT, stamp
from bench.yardsticks import HELD, Yardstick
from c4d.metrics.scores import decibels
from c4d.pipelines.output import write_text

PAGE = ROOT / "docs" / "measurements" / "batches.md"
METHODS = {
    "wan-tiny": ("seacache:threshold=0.3", "first-block:threshold=0.2", "easycache:threshold=0.1,warmup=5"),
    "flux-tiny": ("seacache:threshold=0.3", "first-block:threshold=0.2", "easycache:threshold=0.1,warmup=5"),
    "glyph-dit": ("first-block:threshold=0.2", "teacache:threshold=0.3,coefficients=1/0,signal=input"),
}
WAYS = ("alone", "mean", "worst", "each")


@dataclass(frozen=True)
class Row:
    """Of all samples: PSNR, and how many forwards of a sample were computed of how many."""

    psnr: list[float]
    computed: int
    total: int

    def __str__(self) -> str:
        mean, share = sum(self.psnr) / len(self.psnr), 100 * self.computed / self.total
        return f"{mean:.1f} / {min(self.psnr):.1f} | {share:.0f} %"


def parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def measured(yardstick: Yardstick, text: str, way: str, plain: list[Tensor], batch: int) -> Row:
    prompts, seeds = HELD[yardstick.name](len(plain))
    method = text if way == "alone" else f"{text},batch={way}"
    made: list[Tensor] = []
    computed = total = 0
    for chosen in parts(len(plain), 1 if way == "alone" else batch):
        with c4d.cached(yardstick.pipe, method) as session:
            made += yardstick.make(prompts[chosen], seeds[chosen]).split(1)
        report = session.report()
        share = len(plain[chosen]) if way == "mean" else 1  # one decision for all
        computed, total = computed + share * report.computed, total + share * (report.computed + report.reused)
    found = [decibels(one.transpose(1, 2)[0], other.transpose(1, 2)[0]) for one, other in zip(made, plain, strict=True)]
    return Row(found, computed, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.set_grad_enabled(False)
    lines = ["# A sample, and those that share its batch", "", *stamp("python -m bench.batches", asked.threads), ""]
    lines += [
        f"{asked.samples} held-out samples of each yardstick, one by one (alone) and {asked.batch} in a batch. PSNR to "
        "the uncached sample in dB, mean / worst, and what part of the forwards was computed.",
        "",
        "| model | method | " + " | ".join(f"{way} | computed" for way in WAYS) + " |",
        "|---|---|" + "---|---|" * len(WAYS),
    ]
    for name, methods in METHODS.items():
        yardstick = Yardstick(name)
        prompts, seeds = HELD[name](asked.samples)
        plain = [yardstick.make(prompts[part], seeds[part]) for part in parts(asked.samples, 1)]
        for text in methods:
            rows = [measured(yardstick, text, way, plain, asked.batch) for way in WAYS]
            lines.append(f"| {name} | `{text}` | " + " | ".join(map(str, rows)) + " |")
            print(lines[-1], flush=True)
    write_text(PAGE, "\n".join(lines) + "\n")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
