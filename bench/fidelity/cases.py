"""What is measured, each at several budgets: fewer plain steps and c4d's methods; the peers' are in others.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import c4d
from bench.peers import Begin

PLAIN = (*range(6, 22), 23, 25, 26, 28, 30, 40)
SAMPLERS = ("unipc", "euler")
Open = Callable[[Any], AbstractContextManager[Begin]]
Row = tuple[str, str, str]  # method, setting, text
Profile = Callable[[str, tuple[int, ...]], Path]


@dataclass(frozen=True)
class Case:
    """``system`` and ``method`` group the settings of one method; ``open(pipe)`` applies it and gives its reset."""

    system: str
    method: str
    setting: str
    steps: int
    open: Open

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.system, self.method, self.setting) if part)


def use_sampler(pipe: Any, name: str) -> None:
    """Euler with the flow shift of the model's own UniPC."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    own = UniPCMultistepScheduler.from_pretrained(pipe.config._name_or_path, subfolder="scheduler")
    euler = FlowMatchEulerDiscreteScheduler(shift=own.config.flow_shift)
    pipe.scheduler = {"unipc": own, "euler": euler}[name]


def uncached(steps: int) -> Case:
    return replace(plain(steps), system="uncached", method="")


def plain(steps: int) -> Case:
    return Case("plain", f"{steps} steps", "", steps, lambda pipe: contextlib.nullcontext(lambda: None))


def mask(count: int, steps: int) -> list[int]:
    """The first three steps, then evenly to the last: ``count`` of them."""
    rest = count - 3
    return sorted({0, 1, 2, *(2 + round((i + 1) * (steps - 3) / rest) for i in range(rest))})


def every(n: int, steps: int) -> list[int]:
    """Every n-th step and the last."""
    return sorted({*range(0, steps, n), steps - 1})


def _listed(computed: list[int]) -> str:
    return "/".join(map(str, computed))


def _ours(steps: int, method: str, setting: str, text: str) -> Case:
    @contextmanager
    def apply(pipe: Any) -> Iterator[Begin]:
        with c4d.cached(pipe, text):
            yield lambda: None

    return Case("c4d", method, setting, steps, apply)


def ours(steps: int, profile: Profile) -> list[Case]:
    """``profile(kind, computed)`` gives the path of what was learned for the sampler at hand."""
    return [_ours(steps, *row) for row in rows_of(steps, profile)]


def rows_of(steps: int, profile: Profile) -> list[Row]:
    """Of c4d: the method, the setting, and the text that is both."""
    rows = [("fora", f"interval={n}", f"fora:interval={n}") for n in (2, 3, 5)]
    for name, site, order, warmup, intervals in (
        ("taylorseer", "", 1, 1, (2, 3, 5)),
        ("taylorseer", "", 1, 3, (2, 3, 5)),
        ("taylorseer", "", 2, 1, (3, 5)),
        ("taylorseer-lite", "", 1, 1, (2, 3, 5)),
        ("taylorseer-lite", "", 2, 1, (3, 5)),
        ("taylorseer-lite", "@blocks", 0, 1, (3, 5)),
        ("taylorseer-lite", "@blocks", 1, 1, (2, 3, 5)),
        ("taylorseer-lite", "@blocks", 1, 3, (3, 5)),
        ("taylorseer-lite", "@blocks", 2, 1, (3, 5)),
    ):
        for n in intervals:
            text = f"{name}:interval={n},order={order},warmup={warmup}{site}"
            rows.append((f"{name}{site} order={order},warmup={warmup}", f"interval={n}", text))
    for site in ("", "@blocks"):
        for n in (2, 3, 4, 5):
            text = f"taylorseer-lite:interval={n},order=1,last=1{site}"
            rows.append((f"taylorseer-lite{site} order=1,last=1", f"interval={n}", text))
    rows += _schedules(steps)
    for threshold in (0.3, 0.5):
        text = f"teacache:threshold={threshold},fit=wan2.1-t2v-1.3b"
        rows.append(("teacache fit=wan2.1-t2v-1.3b", f"threshold={threshold}", text))
    raw = "coefficients=1/0,signal=time_embedding"
    for threshold in (0.15, 0.2, 0.3):
        for more, name in (("", ""), (",warmup=3+taylor:order=1", "+taylor:order=1")):
            text = f"teacache:threshold={threshold},{raw}{more}"
            setting = f"threshold={threshold}{more.partition('+')[0]}"
            rows.append((f"teacache raw time_embedding{name}", setting, text))
    for threshold in (0.08, 0.16, 0.3):
        rows.append(("first-block", f"threshold={threshold}", f"first-block:threshold={threshold}"))
    for threshold in (0.08, 0.12, 0.16):
        text = f"first-block:threshold={threshold},warmup=4+taylor:order=1"
        rows.append(("first-block+taylor:order=1", f"threshold={threshold},warmup=4", text))
    return [*rows, *_forecasts(), *_skips(), *_learned(steps, profile)]


def _schedules(steps: int) -> Iterator[Row]:
    """Computed steps as a list."""
    for forecast, intervals in (
        ("reuse", (2, 3, 4, 5)),
        ("taylor:order=1", (2, 3, 4, 5)),
        ("newton:order=2", (2, 3, 4)),
    ):
        for n in intervals:
            text = f"schedule:computed={_listed(every(n, steps))}+{forecast}"
            yield f"schedule+{forecast}", f"every {n}. and the last", text
    for count in (17, 25):
        text = f"schedule:computed={_listed(mask(count, steps))}+taylor:order=1"
        yield "schedule+taylor:order=1, three first", f"{count} steps", text


def _forecasts() -> Iterator[Row]:
    """Other forecasts of the same schedules."""
    for name, more, intervals in (
        ("hicache", "warmup=2", (2, 3, 5)),
        ("hicache", "order=2,warmup=2", (3, 5)),
        ("foca", "warmup=2", (2, 3, 5)),
        ("freqca", "", (2, 3, 6)),
        ("dmd", "", (2, 3, 4)),
    ):
        for n in intervals:
            yield f"{name} {more}".rstrip(), f"interval={n}", f"{name}:interval={n}{f',{more}' if more else ''}"
    for change in (
        "taylor:order=1,over=sigma",
        "taylor:order=2,smoothing=exponential,alpha=0.7",
        "taylor:order=2,smoothing=moving-average",
        "taylor:order=1,smoothing=exponential,alpha=0.7,anchor=smoothed",
        "hermite:order=1,scale=0.5",
        "foca",
        "dmd",
    ):
        for n in (3, 5):
            yield f"taylorseer-lite+{change}@blocks", f"interval={n}", f"taylorseer-lite:interval={n}+{change}@blocks"
    yield "pab", "attn=2,cross_attn=4", "pab:attn=2,cross_attn=4"
    yield "fastercache", "weight=0.5", "fastercache:weight=0.5"


def _skips() -> Iterator[Row]:
    fit = "fit=wan2.1-t2v-1.3b"
    for threshold in (0.3, 0.5):
        text = f"teacache:threshold={threshold},{fit},rule=published"
        yield f"teacache {fit},rule=published", f"threshold={threshold}", text
    for threshold, skips in ((0.06, 2), (0.12, 4), (0.24, 6)):
        setting = f"threshold={threshold},max_skips={skips}"
        for more in ("", "+taylor:order=1"):
            text = f"magcache:curve=wan2.1-t2v-1.3b,{setting}{more}"
            yield f"magcache curve=wan2.1-t2v-1.3b{more}", setting, text
    for threshold, warmup in ((0.05, 10), (0.05, 5), (0.1, 5), (0.2, 5)):
        setting = f"threshold={threshold},warmup={warmup}"
        yield "easycache", setting, f"easycache:{setting}"
    for threshold, skips in ((0.25, 2), (1.0, 1), (1.0, 2), (1.0, 3), (1.0, 4)):
        setting = f"threshold={threshold},max_skips={skips}"
        yield "seacache", setting, f"seacache:{setting}"
    for threshold in (0.08, 0.16):
        yield (
            "first-block first_blocks=2,last_blocks=1",
            f"threshold={threshold}",
            f"first-block:threshold={threshold},first_blocks=2,last_blocks=1",
        )


def _learned(steps: int, profile: Profile) -> Iterator[Row]:
    """LeMiCa's lists are those for Wan 2.1 1.3B at 50 steps; DPCache and L2P learn from clips that are not measured."""
    for count in (14, 17, 20, 25) if steps == 50 else ():
        for more in ("", "+taylor:order=1"):
            text = f"lemica:published=wan2.1-t2v-1.3b-{count}{more}"
            yield f"lemica of wan2.1-t2v-1.3b{more}", f"{count} steps", text
    for count in (10, 14, 18, 25):
        if count < steps:
            yield "dpcache", f"{count} steps", f"dpcache:path={profile('dpcache', ())},budget={count}"
    for n in (2, 3, 4, 5):
        yield "l2p", f"every {n}. and the last", f"l2p:path={profile('l2p', tuple(every(n, steps)))}"
