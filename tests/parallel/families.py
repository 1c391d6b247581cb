"""Families in their own pipelines on several ranks: what they make, and what the cache does, is that of one process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

import c4d
from c4d import SequenceParallel
from tests.parallel.job import BOTH, WAYS, Case, bits, error, passes, same, sharded
from tests.seam import test_families_images as images
from tests.seam import test_families_videos as videos

EXACT = 1e-4
METHODS = {
    "output": "taylorseer-lite:interval=2",
    "first block": "first-block:threshold=0.2",
    "inside": "fora:interval=2",
}
PIPELINES = {
    "flux2": images.flux2,
    "flux2_klein": images.flux2_klein,
    "z_image": images.z_image,
    "longcat": images.longcat,
    "sd3": images.sd3,
    "pixart_sigma": images.pixart_sigma,
    "lumina2": images.lumina2,
    "hunyuan_video15": videos.hunyuan_video15,
    "ltx": videos.ltx,
    "ltx2": videos.ltx2,
    "minimax_h3": videos.minimax_h3,
    "skyreels_v2": videos.skyreels_v2,
    "cogvideox": videos.cogvideox,
    "mochi": videos.mochi,
}


@functools.cache
def built(name: str) -> tuple[Any, Callable[[], list[Tensor]]]:
    pipe, ask = PIPELINES[name]()
    if name in videos.PIPELINES:
        pipe.set_progress_bar_config(disable=True)
        return pipe, lambda: videos.generate(pipe, ask("a"), seed=0)
    answer = images.asking(pipe, ask)
    return pipe, lambda: [answer()]


@functools.cache
def alone(name: str, method: str) -> tuple[list[Tensor], list[Any]]:
    pipe, answer = built(name)
    with c4d.cached(pipe, method, backend="cpu") as session:
        return answer(), passes(session)


def family(name: str, method: str, how: SequenceParallel) -> None:
    (pipe, answer), (want, did) = built(name), alone(name, method)
    with sharded(pipe, how), c4d.cached(pipe, method, backend="cpu") as session:
        got = answer()
    assert passes(session) == did
    assert error(got, want) <= EXACT * max(1.0, *(float(x.abs().max()) for x in want)), error(got, want)
    same(bits(*got))


def cases(world: int) -> dict[str, Case]:
    way = BOTH[world]
    return {
        f"{way}, {name} in its pipeline, {kind}": functools.partial(family, name, method, WAYS[world][way])
        for name in PIPELINES
        for kind, method in METHODS.items()
    }
