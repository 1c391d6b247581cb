"""The page, written from results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.fidelity.results import Measured, Results
from bench.fidelity.statistics import best, equal_cost
from c4d.metrics.paired import DRAWS, Difference, paired

TITLES = {"unipc": "UniPC", "euler": "Euler"}
SYSTEMS = ("c4d", "cache-dit", "diffusers")
SETTINGS = """\
**Settings.** The exact calls are in `bench/fidelity/cases.py` and `others.py`.

- c4d: `fora` is TaylorSeer of order 0; the published TeaCache fit was made for Wan 2.1 1.3B, `raw` is TeaCache's own
  accumulation of the unscaled signal; `schedule` rows reuse the stack's residual at fixed steps. MagCache's curve and
  LeMiCa's schedules are those published for Wan 2.1 1.3B, not made for this model; EasyCache's settings with a warm-up
  of 10 are its published ones. DPCache and L2P learned from four clips under seeds that are not measured.
- cache-dit: F1B0, for its default F8B0 computes all eight blocks of this model on every step; W4 is the warm-up.
- diffusers: TaylorSeer gets the modules' names, for its default pattern matches none of Wan's (nothing is cached, and
  nothing is said), and float32 factors. MagCache is calibrated by its own procedure, on four clips under other seeds;
  ratios=1 is MagCache without calibration. FasterCache, as for distilled guidance (the pipeline runs its branches
  apart), and PyramidAttentionBroadcast skip attention alone.
"""
BUDGETS = (10, 12, 14, 16, 18, 20, 26)  # plain steps


class Comparison(NamedTuple):
    """The plain steps that a case is compared with, how far it is above them, and what that decides."""

    plain: Measured
    psnr: Difference
    ssim: Difference
    verdict: str


def against(case: Measured, plain: Sequence[Measured]) -> Comparison:
    """A case that costs more than all plain steps measured is compared with the most: it cannot be better then."""
    steps = equal_cost(case.cost, {p.steps: p.cost for p in plain})
    other = max(plain, key=lambda p: p.cost) if steps is None else next(p for p in plain if p.steps == steps)
    psnr, ssim = paired(case.psnr, other.psnr), paired(case.ssim, other.ssim)
    dearer = steps is None and psnr.verdict == "better"
    return Comparison(other, psnr, ssim, "undecided" if dearer else psnr.verdict)


def at_budget(results: Results, sampler: str, steps: int) -> list[Measured]:
    """Uncached, plain, c4d's best, and of every method of the peers the setting nearest to the budget."""
    plain = {p.steps: p for p in results.of(sampler, "plain")}
    whole, ours = results.of(sampler, "uncached"), results.of(sampler, "c4d")
    if not whole or steps not in plain:
        return []
    budget = plain[steps].cost
    chosen = best(((c.name, c.cost, c.quality) for c in ours), budget)
    shown = [*whole, plain[steps], *(c for c in ours if c.name == chosen)]
    peers = results.of(sampler, "cache-dit", "diffusers")
    for method in dict.fromkeys((c.system, c.method) for c in peers):
        near = [c for c in peers if (c.system, c.method) == method and 0.85 * budget <= c.cost <= 1.15 * budget]
        shown += [min(near, key=lambda c: abs(c.cost - budget))] if near else []
    return shown


def write(results: Results, pictures: Sequence[str]) -> str:
    setting, parts = results.setting, results.facts.get("shares", {})
    clips, steps = setting["clips"], setting["steps"]
    split = ", ".join(f"{name} {share:.3f}" for name, share in parts.items())
    lines = [
        "# Fidelity at equal cost",
        "",
        f"wan-tiny, {clips} paired clips (half of combinations never seen in training), {steps} steps, guidance "
        f"{setting['guidance']:g}, text length {setting['length']}, batches of {setting['batch']}. PSNR (dB) and SSIM "
        f"are those of the decoded clip to the uncached run of {steps} steps of the same sampler, mean / worst clip; "
        "adherence is the fraction of clips in which the judge sees all four attributes asked for.",
        "",
        "**Cost.** A block-row is one sample through one block, counted per clip by hooks inside the blocks, alike for "
        "all systems and with signals; where a cache skips only part of a block, its modules count by their share of "
        f"the block's matrix-product FLOPs ({split}). *Entered* are the block-rows that ran at least norms and "
        "modulation. Embedding, head, forecasts and the decoder are not counted. A threshold decides for a batch.",
        "",
        "**Comparison.** *Equal plain* is the smallest number of plain steps that costs at least as much, so rounding "
        "favours plain steps; the difference to it is paired by clip, with the 95 % interval of a percentile bootstrap "
        f"over clips ({DRAWS} draws, fixed seed; not corrected for the number of rows). Closeness to the uncached run "
        "is not quality: fewer plain steps solve the same equation with coarser steps.",
        "",
        *SETTINGS.splitlines(),
        "",
        *_summary(results),
    ]
    for sampler in TITLES:
        if results.of(sampler, "plain"):
            lines += _sampler(results, sampler)
    if "equal" in results.facts:
        lines += _equal(results.facts["equal"])
    if pictures:
        lines += [
            "## Pictures at equal cost",
            "",
            "First, middle and last frame of three clips, each beside five times its difference to the uncached clip; "
            "c4d's best that costs no more than the plain steps, and of each of the peers' methods the setting of the "
            "nearest cost, if it is within 15 %; the cost in brackets.",
            "",
            *(f"![{name}]({name})\n" for name in pictures),
        ]
    lines += ["## Where and with what", ""]
    for stamp in results.stamps:
        lines += [*stamp, ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary(results: Results) -> list[str]:
    """Who is best for each budget, and who does not beat fewer plain steps."""
    lines = ["## Best per budget", ""]
    lines += [
        "| sampler | budget, plain steps | PSNR of plain, mean / worst | best of c4d | best of the peers |",
        "|---|---|---|---|---|",
    ]
    for sampler, title in TITLES.items():
        plain = {p.steps: p for p in results.of(sampler, "plain")}
        for steps in BUDGETS:
            if steps not in plain:
                continue
            cells = []
            for systems in (("c4d",), ("cache-dit", "diffusers")):
                cases = {c.name: c for c in results.of(sampler, *systems)}
                name = best(((c.name, c.cost, c.quality) for c in cases.values()), plain[steps].cost)
                if name is None:
                    cells.append("-")
                    continue
                d = paired(cases[name].psnr, plain[steps].psnr)
                cells.append(f"{_short(cases[name])}: {_psnr(cases[name])} ({_interval(d)})")
            lines.append(f"| {title} | {steps} | {_psnr(plain[steps])} | {' | '.join(cells)} |")
    lines += [
        "",
        "Best by mean PSNR among the measured settings that cost no more than the budget (in brackets: above plain, "
        "paired); chosen on the same clips, so the best of many is a little flattered.",
        "",
    ]
    return lines


def _sampler(results: Results, sampler: str) -> list[str]:
    plain, whole = results.of(sampler, "plain"), results.of(sampler, "uncached")[0]
    lines = [f"## {TITLES[sampler]}", "", *_verdicts(results, sampler)]
    here, most = len(results.of(sampler, *SYSTEMS)), max(len(results.of(s, *SYSTEMS)) for s in TITLES)
    if here < most:
        lines += [f"Measured here: {here} settings of {most}, to bound the run's time; the clips are the same.", ""]
    plots = [f"![{s} against fewer plain steps](plot-{s}.png)" for s in SYSTEMS if results.of(sampler, s)]
    lines += [*plots, ""] if sampler == next(s for s in TITLES if results.of(s, "plain")) else []
    head = ["method", "setting", "block-rows", "%", "PSNR", "SSIM", "adherence"]
    more = ["equal plain", "PSNR above it", "SSIM above it", "verdict"]
    for system in SYSTEMS:
        cases = results.of(sampler, system)
        if not cases:
            continue
        methods = list(dict.fromkeys(case.method for case in cases))
        cases.sort(key=lambda case: (methods.index(case.method), case.cost))
        lines += [f"### {system}, {TITLES[sampler]}", "", f"| {' | '.join([*head, *more])} |", "|---" * 11 + "|"]
        for case in cases:
            found = against(case, plain)
            cheaper = " (cost less)" if found.plain.cost < case.cost - 1e-6 else ""
            extra = [f"{found.plain.steps}{cheaper}", _interval(found.psnr), _interval(found.ssim, 4), found.verdict]
            lines.append(f"| {' | '.join([case.method, case.setting, *_numbers(case, whole), *extra])} |")
        lines.append("")
    lines += [f"### Fewer plain steps, {TITLES[sampler]}", "", f"| steps | {' | '.join(head[2:])} |", "|---" * 6 + "|"]
    lines += [
        f"| {c.steps} | {' | '.join(_numbers(c, whole))} |" for c in (*sorted(plain, key=lambda p: p.cost), whole)
    ]
    return [*lines, ""]


def _verdicts(results: Results, sampler: str) -> list[str]:
    plain = results.of(sampler, "plain")
    lines = []
    for system in SYSTEMS:
        found = [(c, against(c, plain)) for c in results.of(sampler, system)]
        if not found:
            continue
        wins = [(c, f.plain) for c, f in found if f.verdict == "better"]
        undecided = [c for c, f in found if f.verdict == "undecided"]
        never = [m for m in dict.fromkeys(c.method for c, *_ in found) if m not in {c.method for c, _ in wins}]
        lower, worse = sum(min(c.psnr) < min(other.psnr) for c, other in wins), len(found) - len(wins) - len(undecided)
        lines.append(
            f"- {system}: in PSNR {len(wins)} of {len(found)} settings are better than fewer plain steps at equal "
            f"cost on average ({lower} of these with a worse worst clip), {len(undecided)} undecided, {worse} worse."
            + (f" At no measured setting better: {', '.join(never)}." if never else "")
        )
    return [*lines, ""]


def _equal(facts: dict[str, Any]) -> list[str]:
    """A pair is equal when it is no further apart than ten times what rounding alone does."""
    rows, limit = facts["rows"], 10 * facts["rounding"]
    effects = {row["peer"]: row["effect"] for row in rows if "effect" in row}
    explained = {row["peer"] for row in rows if row["apart"] <= limit}
    left = [peer for peer in effects if peer not in explained]
    lines = [
        "## Equal schedules",
        "",
        "The same schedule in a peer and in c4d: the largest relative L2 difference between the decoded clips, "
        f"over {facts['clips']} clips at {TITLES[facts['sampler']]}. Rounding alone (the uncached clips one by one "
        f"against one batch) gives {facts['rounding']:.1e}; up to ten times that counts as equal. *Effect* is how far "
        "the peer's result is from the uncached run. Where c4d's published form differs, another line is the same "
        "composition with the one thing changed that the difference consists of.",
        "",
        f"{len(explained)} of {len(effects)} peer configurations are reproduced to rounding by a composition of c4d."
        " Attention alone is compared in one branch, for diffusers keeps it by module and serves one branch from the "
        "other." + (f" Not explained: {', '.join(left)}." if left else ""),
        "",
        "| peer | effect | c4d | difference | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        said = "equal to rounding" if row["apart"] <= limit else f"differs: {row['shows'] or '**not explained**'}"
        cells = [row["peer"], f"{effects[row['peer']]:.1e}", row["c4d"], f"{row['apart']:.1e}", said]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _numbers(case: Measured, whole: Measured) -> list[str]:
    rows = f"{case.cost:.1f}"
    if np.mean(case.entered) > case.cost + 0.05:
        rows += f" ({np.mean(case.entered):.0f} entered)"
    psnr = "-" if case.system == "uncached" else _psnr(case)
    ssim = "-" if case.system == "uncached" else f"{np.mean(case.ssim):.4f} / {min(case.ssim):.4f}"
    return [rows, f"{case.cost / whole.cost:.1%}", psnr, ssim, f"{np.mean(case.adheres):.3f}"]


def _psnr(case: Measured) -> str:
    return f"{case.quality:.2f} / {min(case.psnr):.2f}"


def _interval(d: Difference, digits: int = 2) -> str:
    return f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"


def _short(case: Measured) -> str:
    return f"{case.method} {case.setting}" if case.system == "c4d" else case.name
