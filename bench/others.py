"""Settings of other libraries' caches besides those of ``c4d compare --peers``: what depends on steps or model."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from bench.peers import static_mask
from c4d.pipelines.peers import F1B0, PEERS, Peer, hooked, hooks, registered, taylorseer


def every(n: int, steps: int) -> list[int]:
    """Every n-th step and the last."""
    return sorted({*range(0, steps, n), steps - 1})


def mask(count: int, steps: int) -> list[int]:
    """The first three steps, then evenly to the last: ``count`` of them."""
    rest = count - 3
    return sorted({0, 1, 2, *(2 + round((i + 1) * (steps - 3) / rest) for i in range(rest))})


def all_of(pipe: Any, steps: int, run: Callable[[], Any]) -> list[Peer]:
    """Those of the package and of this file, as far as the libraries are installed.

    ``run()`` samples what MagCache is calibrated on, in ``steps`` steps.
    """
    return [peer for peer in (*PEERS, *_diffusers(pipe, steps, run), *_cache_dit(steps)) if peer.version is not None]


def _diffusers(pipe: Any, steps: int, run: Callable[[], Any]) -> Iterator[Peer]:
    for lite, order, interval in ((False, 1, 2), (True, 1, 2), (False, 2, 3), (True, 2, 3)):
        name = f"TaylorSeer{' lite' if lite else ''} order={order},interval={interval}"
        settings = {"config": "TaylorSeerCacheConfig", **taylorseer(interval, order, lite=lite)}
        yield Peer("diffusers", name, hooked, settings)
    for most in (2, 4):
        settings = {"config": "SeaCacheConfig", "threshold": 1.0, "max_consecutive_cached": most}
        yield Peer("diffusers", f"SeaCache threshold=1.0,max_consecutive={most}", hooked, settings)
    try:
        ratios = mag_ratios(pipe, steps, run)
    except Exception as error:
        print(f"diffusers MagCache: {' '.join(str(error).split())[:200]}", flush=True)  # it does not know all models
        return
    for threshold, skips in ((0.06, 3), (0.12, 4), (0.24, 6)):
        settings = {
            "config": "MagCacheConfig",
            "threshold": threshold,
            "num_inference_steps": steps,
            "mag_ratios": ratios,
            "max_skip_steps": skips,
        }
        yield Peer("diffusers", f"MagCache calibrated, threshold={threshold},max_skip={skips}", hooked, settings)


def mag_ratios(pipe: Any, steps: int, run: Callable[[], Any]) -> list[float]:
    """MagCache's calibration as its documentation asks: run once, copy what it prints. The prompted branch's ratios."""
    from diffusers import MagCacheConfig

    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        hooks(pipe.transformer, MagCacheConfig(num_inference_steps=steps, calibrate=True)) as begin,
    ):
        begin()
        run()
    return [float(x) for x in json.loads(next(s for s in printed.getvalue().splitlines() if s.startswith("[1.0,")))]


def _cache_dit(steps: int) -> Iterator[Peer]:
    """Masks of steps, and its other calibrators."""
    for count in (13, 17, 23):
        for calibrator in (None, "TaylorSeer 1"):
            more = f" + {calibrator}" if calibrator else ""
            settings = {
                **F1B0,
                **static_mask(mask(count, steps), steps),
                "num_inference_steps": steps,
                "calibrator": calibrator,
            }
            yield Peer("cache-dit", f"SCM F1B0, {count} steps{more}", registered, settings)
    for calibrator in ("DMD", "FoCa"):
        settings = {**F1B0, "residual_diff_threshold": 0.12, "calibrator": calibrator}
        yield Peer("cache-dit", f"DBCache F1B0 W4 R=0.12 + {calibrator}", registered, settings)
