"""The peers' own methods, each at several budgets, by the calls of bench/peers."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from bench import peers
from bench.fidelity.cases import Case, every, mask
from bench.peers import Begin


def _cache_dit(steps: int, method: str, setting: str, calibrator: str | None = None, **config: Any) -> Case:
    def apply(pipe: Any) -> AbstractContextManager[Begin]:
        return peers.cache_dit(pipe.transformer, steps, calibrator=calibrator, **config)

    return Case("cache-dit", method, setting, steps, apply)


def cache_dit(steps: int) -> list[Case]:
    """F1B0: the first of the eight blocks signals. Its default F8B0 would compute this whole model on every step."""
    first = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0}
    rows = []
    for calibrator, thresholds in (
        (None, (0.08, 0.16, 0.3)),
        ("TaylorSeer 1", (0.08, 0.12, 0.16)),
        ("DMD", (0.12,)),
        ("FoCa", (0.12,)),
    ):
        for threshold in thresholds:
            config = {**first, "max_warmup_steps": 4, "residual_diff_threshold": threshold}
            method = f"DBCache F1B0 W4{f' + {calibrator}' if calibrator else ''}"
            rows.append(_cache_dit(steps, method, f"R={threshold}", calibrator, **config))
    masks = {f"{count} steps": mask(count, steps) for count in (13, 23)}
    often = {f"every {n}. and the last": every(n, steps) for n in (3, 4)}
    for calibrator, computed in ((None, masks), ("TaylorSeer 1", masks | often)):
        for setting, listed in computed.items():
            method = f"steps mask F1B0{f' + {calibrator}' if calibrator else ''}"
            rows.append(_cache_dit(steps, method, setting, calibrator, **first, **static_mask(listed, steps)))
    return rows


def static_mask(computed: list[int], steps: int) -> dict[str, Any]:
    bits = [int(step in computed) for step in range(steps)]
    return {"steps_computation_mask": bits, "steps_computation_policy": "static", "max_warmup_steps": 3}


def _diffusers(steps: int, method: str, setting: str, config: Callable[[Any], Any]) -> Case:
    return Case("diffusers", method, setting, steps, lambda pipe: peers.hooks(pipe.transformer, config(pipe)))


def diffusers(steps: int, calibrate: Callable[[], list[float]]) -> list[Case]:
    """``calibrate`` gives MagCache's ratios for the sampler at hand; it is called when such a case is opened."""

    def config(name: str, timestep: bool = False, **fields: Any) -> Callable[[Any], Any]:
        def make(pipe: Any) -> Any:
            import diffusers

            clock = {"current_timestep_callback": lambda: pipe.current_timestep} if timestep else {}
            return getattr(diffusers, name)(**clock, **fields)

        return make

    rows = [
        _diffusers(steps, "FirstBlock", f"threshold={t}", config("FirstBlockCacheConfig", threshold=t))
        for t in (0.08, 0.16, 0.3)
    ]
    for lite, order, intervals in (
        (False, 0, (3,)),
        (False, 1, (2, 3, 5)),
        (False, 2, (3, 5)),
        (True, 1, (2, 3, 5)),
        (True, 2, (3, 5)),
    ):
        for n in intervals:
            method = f"TaylorSeer{'-lite' if lite else ''} order={order}"
            make = functools.partial(peers.taylorseer_config, n, order, lite=lite)
            rows.append(_diffusers(steps, method, f"interval={n}", lambda pipe, make=make: make()))
    for skips in (3, 5):
        ones = config("MagCacheConfig", num_inference_steps=steps, mag_ratios=[1.0] * steps, max_skip_steps=skips)
        rows.append(_diffusers(steps, "MagCache ratios=1", f"max_skip_steps={skips}", ones))
    for threshold, skips in ((0.06, 3), (0.12, 4), (0.24, 6)):
        rows.append(
            _diffusers(
                steps,
                "MagCache calibrated",
                f"threshold={threshold},max_skip_steps={skips}",
                lambda pipe, threshold=threshold, skips=skips: config(
                    "MagCacheConfig",
                    threshold=threshold,
                    num_inference_steps=steps,
                    mag_ratios=calibrate(),
                    max_skip_steps=skips,
                )(pipe),
            )
        )
    for threshold, most in ((0.25, 2), (1.0, 1), (1.0, 2), (1.0, 3), (1.0, 4)):
        sea = config("SeaCacheConfig", threshold=threshold, max_consecutive_cached=most)
        rows.append(_diffusers(steps, "SeaCache", f"threshold={threshold},max_consecutive={most}", sea))
    pab = config(
        "PyramidAttentionBroadcastConfig",
        timestep=True,
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=4,
    )
    rows.append(_diffusers(steps, "PyramidAttentionBroadcast", "spatial=2,cross=4", pab))
    faster = config(
        "FasterCacheConfig",
        timestep=True,
        spatial_attention_block_skip_range=2,
        is_guidance_distilled=True,
        tensor_format="BCFHW",
    )
    rows.append(_diffusers(steps, "FasterCache", "spatial=2", faster))
    return rows


def mag_ratios(pipe: Any, steps: int, run: Callable[[], Any]) -> list[float]:
    """MagCache's calibration as its documentation asks: run once, copy what it prints. The prompted branch's ratios."""
    from diffusers import MagCacheConfig

    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        peers.hooks(pipe.transformer, MagCacheConfig(num_inference_steps=steps, calibrate=True)) as begin,
    ):
        begin()
        run()
    return [float(x) for x in json.loads(next(s for s in printed.getvalue().splitlines() if s.startswith("[1.0,")))]
