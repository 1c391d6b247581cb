"""What calibrates on several ranks finds what one process does: a profile, and what published methods read. And one
profile does the same on every rank."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import c4d
from c4d import CacheMethod, SequenceParallel
from c4d.calibrate.collect import collected
from c4d.calibrate.errors import CalibrationError
from c4d.calibrate.published import CALIBRATIONS
from c4d.core.caching.profiles import rule_of
from tests.parallel.job import BOTH, BRANCHED, WAYS, Case, bits, error, passes, raised, rank, same, sharded
from tests.subjects import SUBJECTS

EXACT = 1e-3
CALL = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8, "guidance_scale": 4.0}
STEPS = 8
PROMPTS = ["a red circle moving left on a black background", "a blue square moving up on a white background"]


def tuned(pipe: Any) -> Any:
    return c4d.tune(pipe, prompts=PROMPTS, computed=4, samples=4, trials=2, num_inference_steps=STEPS, **CALL)


@functools.cache
def alone() -> tuple[Any, Any, Any, Any]:
    """A pipeline, its profile, a picture by that, and the session."""
    pipe = SUBJECTS["wan-tiny"].build()
    profile = tuned(pipe)
    picture, session = made(pipe, profile)
    return pipe, profile, picture, session


def made(pipe: Any, profile: Any) -> tuple[Any, Any]:
    with c4d.cached(pipe, CacheMethod("profile", (rule_of(profile),)), backend="cpu") as session:
        return SUBJECTS["wan-tiny"].ask(pipe, steps=STEPS), session


def calibrated(how: SequenceParallel) -> None:
    pipe, wanted, _, _ = alone()
    with sharded(pipe, how):
        profile = tuned(pipe)
    same(json.dumps(profile.to_dict(), sort_keys=True))
    assert profile.plans[4].computed == wanted.plans[4].computed and profile.about["latents"]
    ours, theirs = profile.measured[4]["fit"], wanted.measured[4]["fit"]
    assert abs(ours["db_mean"] - theirs["db_mean"]) < 0.5, (ours, theirs)


def used(how: SequenceParallel) -> None:
    pipe, profile, want, by_itself = alone()
    with sharded(pipe, how) as ranks:
        got, session = made(pipe, profile)
    own = passes(by_itself)[ranks.mesh.branch :: 2] if ranks.mesh.cfg else passes(by_itself)
    assert passes(session) == own
    assert error(got, want) <= EXACT
    same(bits(got))


@functools.cache
def recorded_alone() -> tuple[Any, list[Any]]:
    pipe = SUBJECTS["wan-tiny"].build()
    return pipe, [made(pipe) for made in RECORDED]


def of_rows(pipe: Any, **more: Any) -> Any:
    """Every change that can be measured, and growth."""
    return records(pipe, "teacache", more)


def of_features(pipe: Any) -> Any:
    return [
        records(pipe, name, **options)
        for name, options in (("dpcache", {}), ("hyca", {"interval": 2}), ("l2p", {}), ("meancache", {}))
    ]


def of_a_search(pipe: Any) -> Any:
    return records(pipe, "budcache", budget=2)


def records(pipe: Any, name: str, more: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> Any:
    call = {**CALL, "num_inference_steps": 4, "prompts": PROMPTS[:1], "samples": 1, **more}
    return collected(pipe, CALIBRATIONS[name](**options), functools.partial(c4d.cached, pipe, backend="cpu"), **call)[0]


RECORDED = (of_rows, of_features, of_a_search)


def alike(got: Any, want: Any, where: str = "") -> None:
    """In all but the rounding of numbers."""
    if isinstance(want, dict | list):
        assert type(got) is type(want) and len(got) == len(want), where
        for key in want if isinstance(want, dict) else range(len(want)):
            alike(got[key], want[key], f"{where}[{key!r}]")
    elif isinstance(want, float):
        assert math.isclose(got, want, rel_tol=1e-3, abs_tol=1e-5), (where, got, want)
    else:
        assert got == want, (where, got, want)


def recorded(how: SequenceParallel) -> None:
    pipe, wanted = recorded_alone()
    if how.jointly:
        with sharded(pipe, how):
            assert "jointly mixes" in raised(lambda: of_rows(pipe), CalibrationError)
        return
    with sharded(pipe, how), tempfile.TemporaryDirectory() as folder:
        for made, want in zip(RECORDED, wanted, strict=True):
            got = made(pipe)
            same(json.dumps(got, sort_keys=True))
            alike(got, want)
        kept = Path(folder) if rank() == 0 else None
        first, told = of_rows(pipe, work=kept), list[str]()
        assert of_rows(pipe, work=kept, told=told.append) == first
        assert told == ["sampling 1 of 1: as it was kept"], "the first rank has it, and nobody makes it again"


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in {**WAYS[world], **BRANCHED[world]}.items():
        found[f"{way}, a profile used"] = functools.partial(used, how)
        found[f"{way}, what published methods read"] = functools.partial(recorded, how)
        if way == BOTH[world] or way in BRANCHED[world]:
            found[f"{way}, a profile made"] = functools.partial(calibrated, how)
    return found
