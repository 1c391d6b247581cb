"""A profile made on several ranks is that of one process, and one profile does the same on every rank."""

from __future__ import annotations

import functools
import json
from typing import Any

import c4d
from c4d import CacheMethod, SequenceParallel
from c4d.core.caching.profiles import rule_of
from tests.parallel.job import BOTH, BRANCHED, WAYS, Case, bits, error, passes, same, sharded
from tests.subjects import SUBJECTS

EXACT = 1e-3
CALL = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8, "guidance_scale": 4.0}
STEPS = 12
PROMPTS = ["a red circle moving left on a black background", "a blue square moving up on a white background"]


def tuned(pipe: Any) -> Any:
    return c4d.tune(pipe, prompts=PROMPTS, computed=4, samples=12, trials=5, num_inference_steps=STEPS, **CALL)


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


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in {**WAYS[world], **BRANCHED[world]}.items():
        found[f"{way}, a profile used"] = functools.partial(used, how)
        if way == BOTH[world] or way in BRANCHED[world]:
            found[f"{way}, a profile made"] = functools.partial(calibrated, how)
    return found
