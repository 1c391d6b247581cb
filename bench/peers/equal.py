"""The same schedule in a peer and in c4d: equal to rounding, or a c4d composition that reproduces the difference.

    python -m bench.peers.equal [--clips 4] [--steps 50] [--threads 1]

On the bundled video model. Writes docs/measurements/peers/equal.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import c4d
from bench import peers
from bench.clips import GUIDANCE, LENGTH, paired, pipeline
from bench.others import every, mask
from bench.stamp import ROOT
from c4d.bundled import generate
from c4d.core.caching.curves import of_ratios
from c4d.core.caching.feature_forecasters import DynamicModes
from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.forecasters import FoCa, Reuse
from c4d.core.caching.policies import StepMask
from c4d.core.caching.rules import BlocksRule, CacheMethod, ModuleRule, OutputRule, Rule
from c4d.core.methods.magcache import MagCachePolicy, published_curves
from c4d.core.types import Forecaster, Predicted

INTERVAL, WARMUP, THRESHOLD = 4, 3, 0.12
CURVE = "wan2.1-t2v-1.3b"
LATE = 2  # cache-dit's TaylorSeer forms no difference with a feature from before this step


@dataclass(frozen=True)
class Undivided(FoCa):
    """FoCa whose slopes are differences of features, however many steps are between, as in cache-dit's port."""

    def weights(self, times: Sequence[float], t: float) -> list[float]:
        computed = [i for i, time in enumerate(times) if not isinstance(time, Predicted)]
        weights = [float(i == computed[-1]) for i in range(len(times))]
        if len(computed) > 1:
            x = t - times[computed[-1]]
            half = min(x, self.HORIZON**2 / x) / 2
            for new, old in ((computed[-1], computed[-2]), (-1, -2)):
                weights[new] += half
                weights[old] -= half
        return weights


@dataclass(frozen=True)
class StaleSlope(DynamicModes):
    """Dynamic modes whose fall-back has the slope F_0 - F_{-2} over the last gap alone, as in cache-dit's port."""

    def weights(self, times: Sequence[float], t: float) -> list[float]:
        if len(times) < 3:
            return [0.0] * (len(times) - 1) + [1.0]
        rise = (t - times[-1]) / (times[-1] - times[-2])
        return [0.0] * (len(times) - 3) + [-rise, 0.0, 1.0 + rise]


def method(computed: Iterable[int], forecast: Forecaster, kind: type[Rule] = BlocksRule, **options: Any) -> CacheMethod:
    return CacheMethod("equal", (kind(StepMask(frozenset(computed)), forecast, **options),))


@dataclass(frozen=True)
class Pair:
    """A peer as a context of a transformer, and compositions of c4d: label, method, what a difference would show.

    Not ``guided``: both run one branch, for what the peer keeps is not of a branch.
    """

    peer: str
    open: Callable[[Any], AbstractContextManager[peers.Begin]]
    ours: tuple[tuple[str, str | CacheMethod, str], ...]
    guided: bool = True


def pairs(steps: int) -> list[Pair]:
    return [*_taylorseer(steps), *_diffusers(steps), *_attention(), *_cache_dit(steps), *_blocks_and_calibrators(steps)]


def _taylorseer(steps: int) -> Iterator[Pair]:
    theirs = [s for s in range(steps) if s < WARMUP or (s - WARMUP - 1) % INTERVAL == 0]
    guard = WARMUP - 2
    kinds: tuple[tuple[bool, str, Callable[..., CacheMethod]], ...] = (
        (False, "", partial(method, kind=ModuleRule)),
        (True, "-lite", partial(method, kind=OutputRule, residual=False)),
    )
    for lite, name, made in kinds:
        for order in (0, 1, 2):
            own = f"taylorseer{name}:interval={INTERVAL},order={order},warmup={WARMUP}"
            yield Pair(
                f"diffusers TaylorSeer{name} order={order}",
                lambda t, order=order, lite=lite: peers.hooks(
                    t, peers.taylorseer_config(INTERVAL, order, WARMUP, lite)
                ),
                (
                    ("its steps, differences from step 0 on", made(theirs, Taylor(order)), ""),
                    (
                        f"its steps, the paper's guard (drop_before={guard})",
                        made(theirs, Taylor(order), drop_before=guard),
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
    retained = method({*range(kept), *range(kept + 3, steps, 4)}, Reuse())
    yield Pair(
        "diffusers MagCache ratios=1, max_skip_steps=3",
        lambda t: peers.hooks(t, MagCacheConfig(num_inference_steps=steps, mag_ratios=[1.0] * steps)),
        (("its steps as a schedule, hold", retained, ""),),
    )
    ratios = MagCacheConfig(num_inference_steps=steps, mag_ratios=published_curves()[CURVE]["cond"], threshold=0.12)
    policy = MagCachePolicy(0.12, 3, 0.2, of_ratios(ratios.mag_ratios.tolist()))
    own = f"magcache:curve={CURVE},threshold=0.12,max_skips=3"
    yield Pair(
        f"diffusers MagCache ratios of {CURVE}, threshold=0.12",
        lambda t: peers.hooks(t, ratios),
        (
            ("its ratios, for both branches", CacheMethod("equal", (BlocksRule(policy, Reuse()),)), ""),
            (own, own, "the unconditional branch has ratios of its own; other step counts are another resampling"),
        ),
    )
    own = "seacache:threshold=0.25"
    yield Pair(
        "diffusers SeaCache threshold=0.25",
        lambda t: peers.hooks(t, SeaCacheConfig(threshold=0.25)),
        ((own, own, "of a batch its change is the mean of the samples' own"),),
    )
    yield Pair(
        "diffusers SeaCache threshold=1e9 (computes every 3. step and the last)",
        lambda t: peers.hooks(t, SeaCacheConfig(threshold=1e9)),
        (("schedule of these steps, taylor:order=1", method(every(3, steps), Taylor(1)), ""),),
    )


def _attention() -> Iterator[Pair]:
    from diffusers import FasterCacheConfig, PyramidAttentionBroadcastConfig

    def attention(config: Any, **fields: Any) -> Callable[[Any], AbstractContextManager[peers.Begin]]:
        return lambda t: peers.timed(t, lambda clock: config(current_timestep_callback=clock, **fields))

    self_attention = {"spatial_attention_block_skip_range": 2}
    text = "pab:attn=2,cross_attn=4"
    yield Pair(
        "diffusers PyramidAttentionBroadcast spatial=2,cross=4, one branch",
        attention(PyramidAttentionBroadcastConfig, cross_attention_block_skip_range=4, **self_attention),
        ((text, text, ""),),
        guided=False,
    )
    text = "fastercache:weight=0.5"
    yield Pair(
        "diffusers FasterCache spatial=2, one branch",
        attention(FasterCacheConfig, is_guidance_distilled=True, **self_attention),
        ((text, text, ""),),
        guided=False,
    )


def _peer(
    steps: int, calibrator: str | None, head: int = 1, tail: int = 0, **config: Any
) -> Callable[[Any], AbstractContextManager[peers.Begin]]:
    blocks = {"Fn_compute_blocks": head, "Bn_compute_blocks": tail}
    return lambda t: peers.cache_dit(t, steps, calibrator=calibrator, **blocks, **config)


DYNAMIC = {"max_warmup_steps": 4, "residual_diff_threshold": THRESHOLD}


def _cache_dit(steps: int) -> Iterator[Pair]:
    text = f"first-block:threshold={THRESHOLD},warmup=4,last=0"
    policy = c4d.methods.first_block(THRESHOLD, warmup=4, last=0).rules[0].policy
    yield Pair(f"cache-dit DBCache F1B0 W4 R={THRESHOLD}", _peer(steps, None, **DYNAMIC), ((text, text, ""),))
    for order in (1, 2):
        plain = f"{text}+taylor:order={order}"
        yield Pair(
            f"cache-dit DBCache F1B0 W4 R={THRESHOLD} + TaylorSeer {order}",
            _peer(steps, f"TaylorSeer {order}", **DYNAMIC),
            (
                (
                    f"the same decisions, differences from step {LATE} on (start={LATE})",
                    CacheMethod("equal", (BlocksRule(policy, Taylor(order), drop_before=LATE, first_blocks=1),)),
                    "its first difference appears at step 3, one order a computed step after",
                ),
                (plain, plain, "no guard: the same, differences from step 0 on"),
            ),
        )
    computed = frozenset(mask(17, steps))
    for calibrator, forecast, name in (
        (None, Reuse(), "hold"),
        ("TaylorSeer 1", Taylor(1), "taylor:order=1"),
    ):
        after = CacheMethod("equal", (BlocksRule(StepMask(computed), forecast, drop_before=LATE, first_blocks=1),))
        own = "c4d's own: no block runs on a skipped step, the residual is that of the whole stack"
        yield Pair(
            f"cache-dit steps mask F1B0, 17 of {steps}{f' + {calibrator}' if calibrator else ''}",
            _peer(steps, calibrator, **peers.static_mask(sorted(computed), steps)),
            (
                (f"the mask, first block always run, {name}", after, ""),
                (f"schedule, {name}", method(computed, forecast, drop_before=LATE), own),
            ),
        )


def _blocks_and_calibrators(steps: int) -> Iterator[Pair]:
    policy = c4d.methods.first_block(THRESHOLD, warmup=4, last=0).rules[0].policy
    text = f"first-block:threshold={THRESHOLD},warmup=4,last=0"
    blocks = f"{text},first_blocks=2,last_blocks=1"
    yield Pair(f"cache-dit DBCache F2B1 W4 R={THRESHOLD}", _peer(steps, None, 2, 1, **DYNAMIC), ((blocks, blocks, ""),))
    line = CacheMethod("equal", (BlocksRule(policy, Taylor(1), drop_before=LATE, first_blocks=2, last_blocks=1),))
    yield Pair(
        f"cache-dit DBCache F2B1 W4 R={THRESHOLD} + TaylorSeer 1",
        _peer(steps, "TaylorSeer 1", 2, 1, **DYNAMIC),
        ((f"{blocks}+taylor:order=1, differences from step {LATE} on", line, ""),),
    )
    for calibrator, forecast, label, own, shows in (
        ("FoCa", Undivided(), "slopes undivided", "foca", "slopes are over the steps between features"),
        ("DMD", StaleSlope(), "its line over two gaps", "dmd", "until the modes its line is over the last gap"),
    ):
        theirs = CacheMethod("equal", (BlocksRule(policy, forecast, first_blocks=1),))
        yield Pair(
            f"cache-dit DBCache F1B0 W4 R={THRESHOLD} + {calibrator}",
            _peer(steps, calibrator, **DYNAMIC),
            ((f"the same decisions, {label}", theirs, ""), (f"{text}+{own}", f"{text}+{own}", shows)),
        )


def compare(pipe: Any, clips: int, steps: int) -> dict[str, Any]:
    """The largest relative L2 difference over the clips, for each pair; and what rounding alone does."""
    attributes, seeds = paired(clips)

    def run(guided: bool = True, which: slice = slice(None)) -> torch.Tensor:
        setting = {"steps": steps, "guidance_scale": GUIDANCE if guided else 1.0, "max_sequence_length": LENGTH}
        return generate(pipe, attributes[which], seeds[which], **setting)

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(max((x - y).norm() / y.norm() for x, y in zip(a, b, strict=True)))

    listed = pairs(steps)
    uncached = {guided: run(guided) for guided in {True, *(pair.guided for pair in listed)}}
    single = torch.cat([run(which=slice(n, n + 1)) for n in range(clips)])
    rows = []
    for pair in listed:
        with pair.open(pipe.transformer) as begin:
            begin()
            theirs = run(pair.guided)
        for label, cache, shows in pair.ours:
            with c4d.cached(pipe, cache):
                mine = run(pair.guided)
            rows.append({"peer": pair.peer, "c4d": label, "apart": apart(mine, theirs), "shows": shows})
            print(f"{pair.peer} | {label}: {rows[-1]['apart']:.1e}", flush=True)
        rows[-1]["effect"] = apart(theirs, uncached[pair.guided])
    return {"clips": clips, "rounding": apart(single, uncached[True]), "rows": rows}


def page(facts: Mapping[str, Any]) -> list[str]:
    """A pair is equal when it is no further apart than ten times what rounding alone does."""
    rows, limit = facts["rows"], 10 * facts["rounding"]
    effects = {row["peer"]: row["effect"] for row in rows if "effect" in row}
    explained = {row["peer"] for row in rows if row["apart"] <= limit}
    left = [peer for peer in effects if peer not in explained]
    lines = [
        "# Equal schedules",
        "",
        "The same schedule in a peer and in c4d, on wan-tiny with its own sampler: the largest relative L2 difference "
        f"between the decoded clips, over {facts['clips']} clips. Rounding alone (the clips one by one against "
        f"one batch) gives {facts['rounding']:.1e}; up to ten times that counts as equal. *Effect* is how far the "
        "peer's result is from the uncached run. Where c4d's published form differs, another line is the same "
        "composition with the one thing changed that the difference consists of.",
        "",
        f"{len(explained)} of {len(effects)} peer configurations are reproduced to rounding by a composition of c4d. "
        "Attention alone is compared in one branch, for diffusers keeps it by module and serves one branch from the "
        "other." + (f" Not explained: {', '.join(left)}." if left else ""),
        "",
        "| peer | effect | c4d | difference | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        said = "equal to rounding" if row["apart"] <= limit else f"differs: {row['shows'] or '**not explained**'}"
        cells = [row["peer"], f"{effects[row['peer']]:.1e}", row["c4d"], f"{row['apart']:.1e}", said]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peers.versions()
    with torch.no_grad():
        lines = page(compare(pipeline(), options.clips, options.steps))
    peers.publish(ROOT / "docs/measurements/peers/equal.md", lines, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
