"""A whole cached generation on several ranks: its result and its forwards are those of one process."""

from __future__ import annotations

import functools
from typing import Any

import c4d
from c4d import SequenceParallel
from tests.parallel.forwards import VARIANTS
from tests.parallel.job import BOTH, BRANCHED, WAYS, Case, bits, error, passes, same, sharded
from tests.subjects import SUBJECTS
from tests.tiny import signal_of

EXACT = 1e-4
STEPS = 4
MODELS = {  # thresholds of first-block and teacache at which decisions mix
    "wan": (0.2, 1.0),
    "wan, timesteps of each token": (0.16, 0.6),
    "hunyuan, mixed lengths of text": (0.335, 0.23),
    "flux": (0.45, 0.23),
}
FIXED = {  # by what decides: every site, forecasts that extrapolate
    "modules": "taylorseer:interval=2,order=1",
    "output": "taylorseer-lite:interval=2,order=1",
    "stack": "taylorseer-lite:interval=2,order=1@blocks",
}
TINY = {  # thresholds where few steps mix
    **SUBJECTS["wan-tiny"].methods,
    "head": "first-block:threshold=0.35,last=0",
    "output": "taylorseer-lite:interval=2,order=1",
}
WHOLE = ("wan", "hunyuan, mixed lengths of text")


def methods(name: str) -> dict[str, str]:
    head, change = MODELS[name]
    signal = signal_of(VARIANTS[name].name)
    return {
        **(FIXED if name in WHOLE else {}),
        "head": f"first-block:threshold={head},last=0,batch=mean",
        "signal": f"teacache:threshold={change},coefficients=1/0,signal={signal},last=0,batch=mean",
    }


@functools.cache
def alone(name: str, method: str) -> tuple[Any, Any, Any]:
    """A model, its loop in this process, and the session."""
    model = VARIANTS[name].build(num_attention_heads=4)
    with c4d.cached(model, method, backend="cpu") as session:
        return model, VARIANTS[name].loop(model, STEPS, session.begin), session


def firm(session: Any) -> None:
    """Decisions mix, and stay what they are if every measurement is off by a hundredth."""
    actions = [entry.computed for entry in session.trace]
    assert any(actions) and not all(actions), session.report().timelines
    for off in (0.99, 1.01):
        states: dict[str, Any] = {}
        policy = session.method.rules[0].policy
        for entry in session.trace:
            seen = {signal: change._replace(delta=off * change.delta) for signal, change in entry.seen.items()}
            state = states.get(entry.step.branch, policy.init())
            action, states[entry.step.branch] = policy.decide(state, entry.step, seen)
            assert (action,) == entry.actions, f"{entry.step}: {seen} is at the boundary"


def generation(name: str, kind: str, how: SequenceParallel) -> None:
    method = methods(name)[kind]
    model, want, by_itself = alone(name, method)
    with sharded(model, how) as ranks, c4d.cached(model, method, backend="cpu") as session:
        got = VARIANTS[name].loop(model, STEPS, session.begin)
    compare(session, got, by_itself, want, ranks, how)


def compare(session: Any, got: Any, by_itself: Any, want: Any, ranks: Any, how: SequenceParallel) -> None:
    if session.method.signals:
        firm(by_itself)
    own = passes(by_itself)
    if ranks.mesh.cfg:
        mine = ("cond", "uncond")[ranks.mesh.branch]
        own = [each for each in own if each[1].branch.partition("#")[0] == mine]
    assert passes(session) == own, (session.report().timelines, by_itself.report().timelines)
    measured = {entry.step: entry.seen for entry in by_itself.trace}
    for entry in (
        () if how.jointly else session.trace
    ):  # also what decides nothing here: filling that is measured moves a ratio by little
        for signal, change in entry.seen.items():
            there = measured[entry.step][signal].ratio
            assert abs(change.ratio - there) <= 1e-4 * there, (entry.step, signal, change.ratio, there)
    found = error(got, want)
    assert found <= EXACT, found
    same(bits(*got))


@functools.cache
def pipeline(kind: str) -> tuple[Any, Any, Any]:
    subject = SUBJECTS["wan-tiny"]
    pipe = subject.build()
    with c4d.cached(pipe, TINY[kind], backend="cpu") as session:
        return pipe, subject.ask(pipe, steps=STEPS), session


def end_to_end(kind: str, how: SequenceParallel) -> None:
    """The bundled model in its pipeline, from a prompt to latents."""
    subject = SUBJECTS["wan-tiny"]
    pipe, want, by_itself = pipeline(kind)
    with sharded(pipe, how) as ranks, c4d.cached(pipe, TINY[kind], backend="cpu") as session:
        got = subject.ask(pipe, steps=STEPS)
    compare(session, got, by_itself, want, ranks, how)


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in {**WAYS[world], **BRANCHED[world]}.items():
        # Everything on one way of spreading; on the others what depends on the way.
        for name in MODELS:
            for kind in methods(name):
                if way == BOTH[world] or (name == WHOLE[1] and kind in ("stack", "head")):
                    found[f"{way}, {name}, {kind}"] = functools.partial(generation, name, kind, how)
        for kind in TINY:
            if way == BOTH[world] or (way in BRANCHED[world] and kind != "stack"):
                found[f"{way}, wan-tiny end to end, {kind}"] = functools.partial(end_to_end, kind, how)
    return found
