"""The page, written from the tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from bench.fidelity.table import LEVELS, PLAIN, Beside, Entry, against, closest, of, uncached
from c4d.metrics.paired import DRAWS, Difference
from c4d.pipelines.tuning import size

HEAD = f"""# Fidelity at equal cost

`c4d compare` on the three bundled models, each with its own sampler: how close every method comes to the uncached run
of 50 steps, and at what cost, on prompts and noise that nothing was learned from. These are small models; no large one
has been measured.

**Who is compared.** The shipped profile of the model. c4d's methods and those of cache-dit and diffusers, each with the
settings that were best on eight calibration prompts for 26, 20, 14, 10 and 8 of 50 computed steps
([how they were chosen](../profiles/README.md)), and on wan-tiny those that docs/methods.md lists. BudCache and
MeanCache, with schedules searched on calibration prompts (`bench/profiles/baselines.py`); MeanCache on wan-tiny is of
the mean velocity of the latents, where `meancache` now takes that of the outputs (the same with Euler). Plain steps,
and plain steps whose noise levels were searched on the prompts of the page under other noise, which flatters them.

**Cost.** The share of the FLOPs of an uncached run; where *FLOPs* says another figure, a contender was measured when
the share of the forwards, or of the calls of cached modules, stood for it. *Faster* is the uncached run's seconds by
theirs, means over prompts, on a shared machine: an impression.

**Comparison.** A contender stands beside the fewest plain steps that cost at least as much, so rounding favours plain
steps; the difference in PSNR is paired by prompt, with the 95 % interval of a percentile bootstrap ({DRAWS} draws,
fixed seed; not corrected for the number of rows). Closeness to the uncached run is not quality: fewer plain steps solve
the same equation with coarser steps. PSNR (dB), SSIM and FLIP (lower is closer) are means and the worst picture; *as
asked* is the part of the pictures in which the model's judge sees what was asked for.
"""
SYSTEMS = {
    "profile": "the shipped profile",
    "c4d": "c4d's other methods",
    "cache-dit": "cache-dit",
    "diffusers": "diffusers",
    "baseline": "BudCache and MeanCache",
}
BUDGETS = (26, 20, 14, 10, 8)
STEPS = 50


def write(found: Mapping[str, Sequence[Entry]], stamps: Mapping[str, Sequence[str]]) -> str:
    lines = [HEAD, "## Best for a cost", "", *_best(found), ""]
    for name, entries in found.items():
        lines += [f"## {name}", "", *_verdicts(entries), "", f"![cost and closeness on {name}]({name}.png)", ""]
        lines += [f"![pictures of {name} at 14 of 50 steps]({name}-pictures.png)", ""]
        lines += [*tables(entries), ""]
    return "\n".join([*lines, *where(stamps)]).rstrip() + "\n"


def where(stamps: Mapping[str, Sequence[str]]) -> list[str]:
    """The end of a page: how each model's table was made."""
    lines = ["## Where and with what", ""]
    for name, stamp in stamps.items():
        lines += [f"{name}:", "", *stamp, ""]
    return lines


def tables(entries: Sequence[Entry]) -> list[str]:
    """The contenders beside plain steps, and the plain steps."""
    return [*_table(entries), "", *_plain(entries)]


def _best(found: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    """For each model and budget, the closest of every group that costs no more, and how far it is above plain steps."""
    yield f"| model | computed | plain | at searched levels | {' | '.join(SYSTEMS.values())} |"
    yield "|---|---|---|---|" + "---|" * len(SYSTEMS)
    for name, entries in found.items():
        for count in BUDGETS:
            share = count / STEPS
            cells = [_cell(next((e for e in of(entries, kind) if e.steps == count), None)) for kind in (PLAIN, LEVELS)]
            for group in SYSTEMS:
                best = closest((e for e in of(entries, group) if e.share > share / 2), share)
                beside = against(best, entries) if best is not None else None
                label = "" if group == "profile" or best is None else f"`{short(best.name)}` "
                cells.append(f"{label}{_cell(best)}{f' ({interval(beside.psnr)})' if beside is not None else ''}")
            yield f"| {name} | {count} | {' | '.join(cells)} |"


def _cell(entry: Entry | None) -> str:
    return "" if entry is None else f"{entry.close:.1f} / {min(entry.psnr):.1f}"


def _verdicts(entries: Sequence[Entry]) -> Iterator[str]:
    for group, title in SYSTEMS.items():
        rows = [(each, against(each, entries)) for each in of(entries, group)]
        if not rows:
            continue
        verdicts = [beside.verdict if beside is not None else "undecided" for _, beside in rows]
        wins = [(each, beside) for each, beside in rows if beside is not None and beside.verdict == "better"]
        lower = sum(min(each.psnr) < min(beside.plain.psnr) for each, beside in wins)
        yield (
            f"- {title}: {len(wins)} of {len(rows)} settings are closer than plain steps of the same cost ({lower} of "
            f"them with a worse worst picture), {verdicts.count('undecided')} undecided, {verdicts.count('worse')} "
            "further away"
        )


def _table(entries: Sequence[Entry]) -> Iterator[str]:
    whole = uncached(entries)
    metrics = list(whole.scores)
    yield (
        f"| | computed | FLOPs | cache | faster | {' | '.join(metrics)} | as asked | plain steps | above them | "
        "above searched levels | |"
    )
    yield "|---" * (9 + len(metrics)) + "|" + "---|"
    for group in SYSTEMS:
        for each in sorted(of(entries, group), key=lambda e: (e.name.partition(":")[0], -e.share)):
            beside, levels = against(each, entries), against(each, entries, LEVELS)
            said = ["", "", ""] if beside is None else [f"{beside.plain.steps}", interval(beside.psnr), beside.verdict]
            searched = "" if levels is None else interval(levels.psnr)
            cells = [f"`{short(each.name)}`", *_figures(each, whole), said[0], said[1], searched, said[2]]
            yield f"| {' | '.join(cells)} |"


def _plain(entries: Sequence[Entry]) -> Iterator[str]:
    whole = uncached(entries)
    yield f"| plain steps | computed | FLOPs | cache | faster | {' | '.join(whole.scores)} | as asked |"
    yield "|---" * (6 + len(whole.scores)) + "|"
    for each in sorted(of(entries, PLAIN, LEVELS), key=lambda e: (e.kind != PLAIN, -e.share)):
        label = f"{each.steps}" if each.kind == PLAIN else f"{each.steps} at searched levels"
        yield f"| {' | '.join([label, *_figures(each, whole)])} |"


def _figures(each: Entry, whole: Entry) -> list[str]:
    flops = f"{each.flops / whole.flops:.0%}" if each.flops is not None and whole.flops else ""
    faster = mean(whole.seconds) / mean(each.seconds)
    cells = [f"{each.share:.0%}", flops, "" if each.bytes is None else size(each.bytes), f"{faster:.1f}"]
    for metric, values in each.scores.items():
        worst, digits = (max if metric == "FLIP" else min)(values), 1 if metric == "PSNR" else 4
        cells.append(f"{mean(values):.{digits}f} / {worst:.{digits}f}")
    return [*cells, f"{mean(each.asked):.2f}" if each.asked else ""]


def short(name: str) -> str:
    """Without the path of what was learned."""
    head, path, rest = name.partition("path=")
    file, comma, more = rest.partition(",")
    return f"{head}path=…/{file.rpartition('/')[2]}{comma}{more}" if path else name


def interval(d: Difference) -> str:
    return f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"


__all__ = ["Beside", "interval", "short", "tables", "where", "write"]
