"""The same schedule in a peer and in c4d: equal to rounding, or a c4d composition that reproduces the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import c4d
from bench import peers
from bench.clips import GUIDANCE, LENGTH, paired
from bench.fidelity.cases import every, mask
from bench.fidelity.others import calibrator_config, static_mask, taylorseer_config
from c4d.core.forecast import Hold, Taylor
from c4d.core.policy import StepMask
from c4d.core.types import MODULE_KINDS, OUTPUT, STACK, CacheMethod, Forecaster, Probe, Rule
from c4d.eval import generate

INTERVAL, WARMUP, THRESHOLD = 4, 3, 0.12


@dataclass(frozen=True)
class MaskAfterHead(StepMask):
    """A fixed schedule whose skipped steps still run the first block, as cache-dit's masks do."""

    @property
    def probes(self) -> frozenset[Probe]:
        return frozenset({Probe.HEAD})


def method(computed: Sequence[int], forecast: Forecaster, at: tuple[str, ...], base: str = "input") -> CacheMethod:
    return CacheMethod("equal", (Rule(at, StepMask(frozenset(computed)), forecast, base=base),))


def pairs(steps: int) -> list[tuple[str, Any, list[tuple[str, Any, str]]]]:
    """(the peer's name, its context from a transformer, [(c4d's composition, its method, what it shows)])."""
    from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig

    theirs = [s for s in range(steps) if s < WARMUP or (s - WARMUP - 1) % INTERVAL == 0]
    rows: list[tuple[str, Any, list[tuple[str, Any, str]]]] = []
    for lite, name, at, base in ((False, "", MODULE_KINDS, "input"), (True, "-lite", (OUTPUT,), "zero")):
        for order in (0, 1, 2):
            own = f"taylorseer{name}:interval={INTERVAL},order={order},warmup={WARMUP}"
            rows.append(
                (
                    f"diffusers TaylorSeer{name} order={order}",
                    lambda t, order=order, lite=lite: peers.hooks(t, taylorseer_config(INTERVAL, order, WARMUP, lite)),
                    [
                        ("its steps, differences from step 0 on", method(theirs, Taylor(order), at, base), "equal"),
                        (
                            f"its steps, the paper's guard (start={WARMUP - 2})",
                            method(theirs, Taylor(order, start=WARMUP - 2), at, base),
                            "the guard alone: diffusers has none, it matters from order 2 on",
                        ),
                        (own, own, "the paper's steps: the gap after warm-up is a whole interval, in diffusers 2"),
                    ],
                )
            )
    first_block = f"first-block:threshold={THRESHOLD}"
    rows.append(
        (
            f"diffusers FirstBlock threshold={THRESHOLD}",
            lambda t: peers.hooks(t, FirstBlockCacheConfig(threshold=THRESHOLD)),
            [(f"{first_block},last=0", f"{first_block},last=0", "equal")],
        )
    )
    first = int(0.2 * steps + 0.5)
    retained = {*range(first), *range(first + 3, steps, 4)}
    rows.append(
        (
            "diffusers MagCache ratios=1, max_skip_steps=3",
            lambda t: peers.hooks(t, MagCacheConfig(num_inference_steps=steps, mag_ratios=[1.0] * steps)),
            [("its steps as a schedule, hold", method(sorted(retained), Hold(), (STACK,)), "equal")],
        )
    )
    often = every(3, steps)
    rows.append(
        (
            "diffusers SeaCache threshold=1e9 (computes every 3. step and the last)",
            lambda t: peers.hooks(t, SeaCacheConfig(threshold=1e9)),
            [("schedule of these steps, taylor:order=1", method(often, Taylor(1), (STACK,)), "equal")],
        )
    )
    block = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0}
    dynamic = {**block, "max_warmup_steps": 4, "residual_diff_threshold": THRESHOLD}
    text = f"{first_block},warmup=4,last=0"
    rows.append(
        (
            f"cache-dit DBCache F1B0 W4 R={THRESHOLD}",
            lambda t: peers.cache_dit(t, steps, **dynamic),
            [(text, text, "equal")],
        )
    )
    for order in (1, 2):
        guarded = c4d.methods.first_block(THRESHOLD, warmup=4, last=0).rules[0]
        rows.append(
            (
                f"cache-dit DBCache F1B0 W4 R={THRESHOLD} + TaylorSeer {order}",
                lambda t, order=order: peers.cache_dit(
                    t, steps, calibrator=calibrator_config(f"TaylorSeer {order}"), **dynamic
                ),
                [
                    (
                        "the same, differences from step 2 on (start=2)",
                        CacheMethod("equal", (Rule((STACK,), guarded.policy, Taylor(order, start=2)),)),
                        "equal: its first difference appears at step 3, one order a computed step after",
                    ),
                    (
                        f"{text}+taylor:order={order}",
                        f"{text}+taylor:order={order}",
                        "no guard: the same decisions, differences from step 0 on",
                    ),
                ],
            )
        )
    computed = mask(17, steps)
    for calibrator, forecast in ((None, Hold()), ("TaylorSeer 1", Taylor(1, start=2))):
        name = "taylor:order=1" if calibrator else "hold"
        rows.append(
            (
                f"cache-dit steps mask F1B0, 17 of {steps}{f' + {calibrator}' if calibrator else ''}",
                lambda t, calibrator=calibrator: peers.cache_dit(
                    t, steps, calibrator=calibrator_config(calibrator), **block, **static_mask(computed, steps)
                ),
                [
                    (
                        f"the mask, first block always run, {name}",
                        CacheMethod("equal", (Rule((STACK,), MaskAfterHead(frozenset(computed)), forecast),)),
                        "equal",
                    ),
                    (
                        f"schedule, {name}",
                        method(computed, forecast, (STACK,)),
                        "c4d's own: no block runs on a skipped step, the residual is that of the whole stack",
                    ),
                ],
            )
        )
    return rows


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
    for name, open_theirs, compositions in pairs(steps):
        with open_theirs(pipe.transformer) as begin:
            begin()
            theirs = run()
        for label, cache, shows in compositions:
            with c4d.cached(pipe, cache):
                mine = run()
            rows.append({"peer": name, "c4d": label, "apart": apart(mine, theirs), "shows": shows})
            print(f"equal schedules: {name} | {label}: {rows[-1]['apart']:.1e}", flush=True)
        rows[-1]["effect"] = apart(theirs, uncached)
    return {"sampler": sampler, "clips": clips, "rounding": apart(single, uncached), "rows": rows}
