"""The same schedule in a peer and in c4d: equal to rounding, or a c4d composition that reproduces the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

import c4d
from bench import peers
from bench.clips import GUIDANCE, LENGTH, paired
from bench.fidelity.cases import every, mask
from bench.fidelity.others import calibrator_config, static_mask
from c4d.core.forecast import Hold
from c4d.core.ladder import Taylor
from c4d.core.policy import StepMask
from c4d.core.rule import CacheMethod, Rule
from c4d.core.types import MODULE_KINDS, OUTPUT, STACK, Forecaster, Probe
from c4d.eval import generate

INTERVAL, WARMUP, THRESHOLD = 4, 3, 0.12
LATE = 2  # cache-dit's TaylorSeer forms no difference with a feature from before this step


@dataclass(frozen=True)
class MaskAfterHead(StepMask):
    """A fixed schedule whose skipped steps still run the first block, as cache-dit's masks do."""

    @property
    def probes(self) -> frozenset[Probe]:
        return frozenset({Probe.HEAD})


def method(
    computed: Iterable[int],
    forecast: Forecaster,
    at: tuple[str, ...] = (STACK,),
    base: str = "input",
    start: int = 0,
) -> CacheMethod:
    return CacheMethod("equal", (Rule(at, StepMask(frozenset(computed)), forecast, base, start),))


@dataclass(frozen=True)
class Pair:
    """A peer as a context of a transformer, and compositions of c4d: label, method, what a difference would show."""

    peer: str
    open: Callable[[Any], AbstractContextManager[peers.Begin]]
    ours: tuple[tuple[str, str | CacheMethod, str], ...]


def pairs(steps: int) -> list[Pair]:
    return [*_taylorseer(steps), *_diffusers(steps), *_cache_dit(steps)]


def _taylorseer(steps: int) -> Iterator[Pair]:
    theirs = [s for s in range(steps) if s < WARMUP or (s - WARMUP - 1) % INTERVAL == 0]
    guard = WARMUP - 2
    for lite, name, at, base in ((False, "", MODULE_KINDS, "input"), (True, "-lite", (OUTPUT,), "zero")):
        for order in (0, 1, 2):
            own = f"taylorseer{name}:interval={INTERVAL},order={order},warmup={WARMUP}"
            yield Pair(
                f"diffusers TaylorSeer{name} order={order}",
                lambda t, order=order, lite=lite: peers.hooks(
                    t, peers.taylorseer_config(INTERVAL, order, WARMUP, lite)
                ),
                (
                    ("its steps, differences from step 0 on", method(theirs, Taylor(order), at, base), ""),
                    (
                        f"its steps, the paper's guard (start={guard})",
                        method(theirs, Taylor(order), at, base, guard),
                        "the guard alone: diffusers has none, it matters from order 2 on",
                    ),
                    (own, own, "the paper's steps: the gap after warm-up is a whole interval, in diffusers 2"),
                ),
            )


def _diffusers(steps: int) -> Iterator[Pair]:
    from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig

    text = f"first-block:threshold={THRESHOLD},last=0"
    yield Pair(
        f"diffusers FirstBlock threshold={THRESHOLD}",
        lambda t: peers.hooks(t, FirstBlockCacheConfig(threshold=THRESHOLD)),
        ((text, text, ""),),
    )
    kept = int(0.2 * steps + 0.5)
    retained = method({*range(kept), *range(kept + 3, steps, 4)}, Hold())
    yield Pair(
        "diffusers MagCache ratios=1, max_skip_steps=3",
        lambda t: peers.hooks(t, MagCacheConfig(num_inference_steps=steps, mag_ratios=[1.0] * steps)),
        (("its steps as a schedule, hold", retained, ""),),
    )
    yield Pair(
        "diffusers SeaCache threshold=1e9 (computes every 3. step and the last)",
        lambda t: peers.hooks(t, SeaCacheConfig(threshold=1e9)),
        (("schedule of these steps, taylor:order=1", method(every(3, steps), Taylor(1)), ""),),
    )


def _cache_dit(steps: int) -> Iterator[Pair]:
    block = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0}

    def peer(calibrator: str | None, **config: Any) -> Callable[[Any], AbstractContextManager[peers.Begin]]:
        return lambda t: peers.cache_dit(t, steps, calibrator=calibrator_config(calibrator), **block, **config)

    dynamic = {"max_warmup_steps": 4, "residual_diff_threshold": THRESHOLD}
    text = f"first-block:threshold={THRESHOLD},warmup=4,last=0"
    policy = c4d.methods.first_block(THRESHOLD, warmup=4, last=0).rules[0].policy
    yield Pair(f"cache-dit DBCache F1B0 W4 R={THRESHOLD}", peer(None, **dynamic), ((text, text, ""),))
    for order in (1, 2):
        plain = f"{text}+taylor:order={order}"
        yield Pair(
            f"cache-dit DBCache F1B0 W4 R={THRESHOLD} + TaylorSeer {order}",
            peer(f"TaylorSeer {order}", **dynamic),
            (
                (
                    f"the same decisions, differences from step {LATE} on (start={LATE})",
                    CacheMethod("equal", (Rule((STACK,), policy, Taylor(order), start=LATE),)),
                    "its first difference appears at step 3, one order a computed step after",
                ),
                (plain, plain, "no guard: the same, differences from step 0 on"),
            ),
        )
    computed = frozenset(mask(17, steps))
    for calibrator, forecast, name in (
        (None, Hold(), "hold"),
        ("TaylorSeer 1", Taylor(1), "taylor:order=1"),
    ):
        after = CacheMethod("equal", (Rule((STACK,), MaskAfterHead(computed), forecast, start=LATE),))
        own = "c4d's own: no block runs on a skipped step, the residual is that of the whole stack"
        yield Pair(
            f"cache-dit steps mask F1B0, 17 of {steps}{f' + {calibrator}' if calibrator else ''}",
            peer(calibrator, **static_mask(sorted(computed), steps)),
            (
                (f"the mask, first block always run, {name}", after, ""),
                (f"schedule, {name}", method(computed, forecast, start=LATE), own),
            ),
        )


def compare(pipe: Any, sampler: str, clips: int, steps: int) -> dict[str, Any]:
    """The largest relative L2 difference over the clips, for each pair; and what rounding alone does."""
    attributes, seeds = paired(clips)

    def run(which: slice = slice(None)) -> torch.Tensor:
        setting = {"steps": steps, "guidance_scale": GUIDANCE, "max_sequence_length": LENGTH}
        return generate(pipe, attributes[which], seeds[which], **setting)

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(max((x - y).norm() / y.norm() for x, y in zip(a, b, strict=True)))

    uncached = run()
    single = torch.cat([run(slice(n, n + 1)) for n in range(clips)])
    rows = []
    for pair in pairs(steps):
        with pair.open(pipe.transformer) as begin:
            begin()
            theirs = run()
        for label, cache, shows in pair.ours:
            with c4d.cached(pipe, cache):
                mine = run()
            rows.append({"peer": pair.peer, "c4d": label, "apart": apart(mine, theirs), "shows": shows})
            print(f"equal schedules: {pair.peer} | {label}: {rows[-1]['apart']:.1e}", flush=True)
        rows[-1]["effect"] = apart(theirs, uncached)
    return {"sampler": sampler, "clips": clips, "rounding": apart(single, uncached), "rows": rows}
