"""Branches of guidance on ranks of their own, beside what does not call the model twice a step or moves its weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import c4d
from c4d import SequenceParallel
from c4d.parallel.agree import DisagreementError
from tests.parallel.forwards import VARIANTS
from tests.parallel.generations import TINY
from tests.parallel.job import BRANCHED, Case, bits, error, passes, raised, same, sharded
from tests.subjects import SUBJECTS
from tests.tiny import rand

STEPS = 4
TWO = ("A", "B")  # prompts


def offloaded(kind: str, how: SequenceParallel) -> None:
    """accelerate's model offload takes its hooks off the model after a generation, and puts new ones on."""
    subject = SUBJECTS["wan-tiny"]
    plain, pipe = subject.build(), subject.build()
    pipe.enable_model_cpu_offload(device="cpu")
    with c4d.cached(plain, TINY[kind], backend="cpu") as by_itself:
        want = [subject.ask(plain, prompt=prompt, steps=STEPS) for prompt in TWO]
    with sharded(pipe, how) as ranks, c4d.cached(pipe, TINY[kind], backend="cpu") as session:
        got, hooks = [], []
        for prompt in TWO:
            got.append(subject.ask(pipe, prompt=prompt, steps=STEPS))
            hooks.append(pipe.transformer._hf_hook)
    assert hooks[0] is not hooks[1]
    found = error(got, want)
    assert found <= 1e-4, found
    if not how.jointly:
        assert passes(session) == passes(by_itself)[ranks.mesh.branch :: 2], session.report().timelines
    same(bits(*got))


def loop(pipe: Any, single: int | None = None) -> Tensor:
    """A pipeline's: guided latents of ``STEPS`` steps, of which the one with that number makes a single call."""
    subject = SUBJECTS["wan-tiny"]
    x = rand(*subject.latents, seed=3)
    pipe.scheduler.set_timesteps(STEPS)
    for i, t in enumerate(pipe.scheduler.timesteps):
        branches = range(1 if i == single else 2)
        made = [pipe.transformer(x, t.expand(1), **subject.inputs(seed), return_dict=False)[0] for seed in branches]
        x = pipe.scheduler.step(made[-1] + 2.0 * (made[0] - made[-1]), t, x, return_dict=False)[0]
    return x


def single(step: int, how: SequenceParallel) -> None:
    """A pipeline whose guidance pauses in a step: refused as soon as that is known, and the next request is right."""
    pipe, at_end = SUBJECTS["wan-tiny"].build(), step == STEPS - 1
    want = loop(pipe)

    def paused() -> None:
        with sharded(pipe, how):
            loop(pipe, step)
            assert at_end  # what is to come could still be the second call

    said = raised(paused, RuntimeError)
    where = "the last one made a single call" if at_end else "the schedule went on between these two calls"
    assert where in said and "use cfg=1" in said, said
    same(said)
    with sharded(pipe, how):
        found = error(loop(pipe), want)
        assert found <= 1e-4, found
        if at_end:  # also by what follows in the same block
            loop(pipe, step)
            said = raised(lambda: loop(pipe), RuntimeError)
            assert "the schedule went on" in said, said


def hasty(how: SequenceParallel) -> None:
    """A loop that copies what the first call returns before the second one is made has no numbers to copy."""
    subject = SUBJECTS["wan-tiny"]
    pipe = subject.build()
    with sharded(pipe, how):
        said = raised(lambda: subject.loop(pipe, steps=6), DisagreementError)
    assert "step 3 of 6" in said and "not finite on rank 1" in said, said


def own_loop(how: SequenceParallel) -> None:
    """Without a scheduler the calls of a step are known by their timestep."""
    case = VARIANTS["wan"]
    model, x = case.build(num_attention_heads=4), rand(*case.latents, seed=3)

    def call(t: float) -> Any:
        return case.run(model, x, t)

    want = call(900.0)
    with sharded(model, how):
        for _ in range(2):
            got = [call(900.0), call(900.0)]
        assert error(got, [want, want]) <= 1e-4
        call(800.0)
        said = raised(lambda: call(700.0), RuntimeError)
        assert "the schedule went on between these two calls" in said, said
        got = [call(900.0), call(900.0)]
        assert error(got, [want, want]) <= 1e-4 and not torch.isnan(got[1]).any()


def spared(how: SequenceParallel) -> None:
    """A method that makes one branch of the other would have its ranks wait: refused on all, before a forward."""
    pipe = SUBJECTS["wan-tiny"].build()
    with sharded(pipe, how):
        said = raised(c4d.cached(pipe, "cfg-skip:ratio=0.5", backend="cpu").__enter__, RuntimeError)
    assert "cfg=2 gives each ranks of its own" in said and "use cfg=1" in said, said


def cases(world: int) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for way, how in BRANCHED[world].items():
        found[f"{way}, a branch that is made of the other"] = functools.partial(spared, how)
        for kind in ("stack", "head") if world == 2 else ("head",):
            found[f"{way}, model offload, {kind}"] = functools.partial(offloaded, kind, how)
        if world == 2 and not how.jointly:
            for step in (0, 1, 3):
                found[f"{way}, a single call in step {step + 1} of {STEPS}"] = functools.partial(single, step, how)
            found[f"{way}, a loop that reads the first call at once"] = functools.partial(hasty, how)
            found[f"{way}, a single call in a loop of one's own"] = functools.partial(own_loop, how)
    return found
