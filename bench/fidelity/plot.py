"""The plot (matplotlib) and the pictures at equal cost, from what was measured and the clips it kept."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.clips import paired
from bench.fidelity.page import SYSTEMS, TITLES, at_budget
from bench.fidelity.results import Measured, Results

MARKERS = "osD^vP*X<>hd"
NAMED = 8  # methods with a line of their own: more cannot be told apart
PICTURED = ("unipc", (12, 18))


def file_name(case: Any) -> str:
    return re.sub(r"[^\w.=-]+", "_", case.name) + ".pt"


def draw(results: Results, out: Path, kept: Path) -> list[str]:
    """Writes plot and pictures; -> the pictures there are. Each is left as it was if what it needs is missing."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is missing (make bench installs it): the plot was not drawn")
    else:
        matplotlib.use("agg")
        for system in SYSTEMS:
            _plot(results, system, out / f"plot-{system}.png")
    sampler, budgets = PICTURED
    for budget in budgets:
        shown = at_budget(results, sampler, budget)
        if shown and all((kept / sampler / file_name(case)).exists() for case in shown):
            _sheet(results, shown, kept / sampler, out / f"pictures-{sampler}-{budget}.png")
    return sorted(path.name for path in out.glob("pictures-*.png"))


def _plot(results: Results, system: str, path: Path) -> None:
    """One system's settings beside the line of fewer plain steps, a panel a sampler. Those of the methods that are the
    closest at some cost are lines with a name; all others are grey points, which the page lists."""
    from matplotlib import pyplot

    samplers = [s for s in TITLES if results.of(s, system)]
    if not samplers:
        return
    figure, panels = pyplot.subplots(1, len(samplers), figsize=(7.5 * len(samplers), 6), squeeze=False, sharey=True)
    palette, named = pyplot.get_cmap("tab10"), _closest(results, system)
    for panel, sampler in zip(panels[0], samplers, strict=True):
        whole = results.of(sampler, "uncached")[0].cost

        def points(cases: Iterable[Measured], whole: float = whole) -> list[tuple[float, float]]:
            return sorted((100 * c.cost / whole, c.quality) for c in cases)

        panel.plot(*zip(*points(results.of(sampler, "plain")), strict=True), color="black", linewidth=2.5,
                   label="fewer plain steps", zorder=3)  # fmt: skip
        measured = results.of(sampler, system)
        if others := points(c for c in measured if c.method not in named):
            panel.scatter(*zip(*others, strict=True), color="0.75", s=18, label="other settings", zorder=1)
        for i, name in enumerate(named):
            if found := points(c for c in measured if c.method == name):
                style = {"marker": MARKERS[i % len(MARKERS)], "color": palette(i % 10), "markersize": 6}
                panel.plot(*zip(*found, strict=True), linewidth=1.3, label=name, zorder=2, **style)
        panel.set(title=f"{TITLES[sampler]}: {system}", xlabel="block-rows computed, % of the uncached run")
        panel.set(xlim=(8, 62), ylim=(20, None))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("PSNR to the uncached run, dB, mean")
    handles: dict[str, Any] = {}
    for panel in panels[0]:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90, bbox_inches="tight")
    pyplot.close(figure)


def _closest(results: Results, system: str) -> list[str]:
    """The methods with a setting that no cheaper one of the system equals, at any sampler; at most ``NAMED``."""
    wins: Counter[str] = Counter()
    for sampler in TITLES:
        best = -math.inf
        for case in sorted(results.of(sampler, system), key=lambda c: (c.cost, -c.quality)):
            if case.quality > best:
                best = case.quality
                wins[case.method] += 1
    return [name for name, _ in wins.most_common(NAMED)]


def _sheet(results: Results, shown: list[Measured], kept: Path, path: Path) -> None:
    """A row a case, a group of columns a clip: its frames, then five times its difference to the uncached clip."""
    import torch

    from bench.fidelity.__main__ import SHOWN
    from c4d.bundled import caption
    from c4d.metrics import contact_sheet

    clips = torch.stack([torch.load(kept / file_name(case)).float() / 255 for case in shown], 1)
    difference = (0.5 + 5 * (clips - clips[:, :1])).clamp(0, 1)
    attributes, _ = paired(results.setting["clips"])
    names = [caption(attributes[n]) for n in SHOWN if n < len(attributes)]
    labels = [f"{c.name}  ({c.cost / shown[0].cost:.0%})" for c in shown]
    groups = [group for pair in zip(clips, difference, strict=True) for group in pair]
    titles = [title for name in names for title in (name.split(" on ")[0], "difference x 5")]
    contact_sheet(groups, labels, titles=titles, frames=3, frame_height=48).save(path, optimize=True)
