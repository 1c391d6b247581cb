"""Settings of the package's methods on the yardsticks, and the best of them for a cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from bench.learned import Learned
from bench.stamp import ROOT
from bench.yardsticks import SEED, Yardstick
from c4d.metrics.sheet import spaced

STEPS = 50
COMPUTED = (20, 17, 14, 12, 10, 8, 6)
COUNTS = (*COMPUTED, 25)  # of plain steps, and of what learns a schedule of so many
LEARNING = 8  # calibration prompts that settings are chosen on
NEAREST = {"wan-tiny": "wan2.1-t2v-1.3b", "flux-tiny": "flux.1-dev"}  # whose published curves and lists are tried
LISTS = {"wan-tiny": (14, 17, 20, 25), "flux-tiny": (10, 15, 20)}
Setting = tuple[str, str]  # its name, and its text, which has the path of what was learned


def grid(yardstick: str, learned: Callable[[str, tuple[int, ...]], Path]) -> Iterator[Setting]:
    """Settings of the package's methods, from which each takes its best for a cost."""
    yield from ((text, text) for text in _grid(yardstick))
    for count in COUNTS:
        yield f"dpcache:budget={count}", f"dpcache:path={learned('dpcache', ())},budget={count}"
        spread = tuple(spaced(STEPS, count))
        yield f"l2p:{count} steps", f"l2p:path={learned('l2p', spread)}"


def _grid(yardstick: str) -> Iterator[str]:
    for every in (2, 3, 4, 5, 6, 8):
        for order in (0, 1, 2):
            yield f"taylorseer-lite:interval={every},order={order},last=1"
        yield f"taylorseer-lite:interval={every},order=1,last=1@blocks"
        yield f"taylorseer-lite:interval={every}+hermite:order=1,scale=0.5@blocks"
        yield f"hicache:interval={every},warmup=2"
        yield f"foca:interval={every},warmup=2"
        yield f"dmd:interval={every}"
        yield f"freqca:interval={every}"
        yield f"fora:interval={every}"
        yield f"seacache:threshold=1.0,max_skips={every - 1}"
        yield f"taylorseer:interval={every},order=1"
    for threshold in (0.1, 0.15, 0.2, 0.3, 0.5):
        for signal in ("time_embedding", "modulated_input"):
            yield f"teacache:threshold={threshold},coefficients=1/0,signal={signal},warmup=3+taylor:order=1"
        yield f"easycache:threshold={threshold},warmup=5"
        yield f"first-block:threshold={threshold}"
        yield f"first-block:threshold={threshold / 2},warmup=4+taylor:order=1"
    if near := NEAREST.get(yardstick):
        for threshold, skips in ((0.06, 2), (0.12, 4), (0.24, 6)):
            yield f"magcache:curve={near},threshold={threshold},max_skips={skips}"
            yield f"magcache:curve={near},threshold={threshold},max_skips={skips}+taylor:order=1"
        for count in LISTS[yardstick]:
            yield f"lemica:published={near}-{count}"
            yield f"lemica:published={near}-{count}+taylor:order=1"
    yield "pab:attn=2,cross_attn=4"
    yield "pab:attn=2"
    yield "fastercache:weight=0.5"


def learning(yardstick: Yardstick, count: int = LEARNING) -> tuple[list[str], list[int]]:
    """Calibration prompts and noise seeds."""
    prompts = yardstick.learning()[:count]
    return prompts, list(range(SEED, SEED + len(prompts)))


def learned(yardstick: Yardstick, sampler: str) -> Callable[[str, tuple[int, ...]], Path]:
    """The path of what DPCache or L2P learned from four calibration samples; ``yardstick`` has this sampler."""
    run = partial(yardstick.make, *learning(yardstick, 4), num_inference_steps=STEPS)
    folder = ROOT / "out" / "learned" / f"{yardstick.name}-{sampler}"
    return Learned(yardstick.pipe, run, Path(os.path.relpath(folder))).path  # short, for it is a part of names


Tried = Mapping[str, tuple[float, float] | None]  # name -> computed steps and closeness on the calibration prompts


def best(tried: Tried, group: Callable[[str], str], counts: Iterable[int] = COMPUTED) -> list[str]:
    """Of each group and number of computed steps, the closest setting of those that cost no more."""
    found = dict[str, None]()
    for count in counts:
        closest = dict[str, tuple[float, str]]()
        for name, figures in tried.items():
            if figures is not None and figures[0] <= count + 0.51:
                closest[group(name)] = max(closest.get(group(name), (-1.0, "")), (figures[1], name))
        found |= dict.fromkeys(name for _, name in closest.values())
    return list(found)


def by_method(name: str) -> str:
    """The group of a setting of c4d."""
    return name.partition(":")[0]


def by_peer(name: str) -> str:
    """The group of a setting of another library: the library and its method."""
    return " ".join(name.replace(",", "").split()[:2])
