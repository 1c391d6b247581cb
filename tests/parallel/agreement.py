"""Ranks that share a request agree on it, or say on every rank who is at fault: never a hang, never a wrong result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

import c4d
from c4d import SequenceParallel
from c4d.backends import load
from c4d.parallel.agree import DisagreementError
from tests.parallel.forwards import VARIANTS, words
from tests.parallel.job import BOTH, WAYS, Case, bits, error, gathered, raised, rank, same, sharded
from tests.subjects import SUBJECTS
from tests.tiny import Case as Model
from tests.tiny import rand

NAME, HEAD = "wan", "first-block:threshold=0.2,last=0"
FIXED = "taylorseer-lite:interval=2,order=1@blocks"  # which sends nothing to decide
TIMES = [1000.0, 750.0, 500.0]


def request(case: Model, model: Any, session: Any, x: Tensor | None = None, times: Any = TIMES) -> list[Tensor]:
    session.begin(times)
    x = rand(*case.latents, seed=3) if x is None else x
    return [case.run(model, x * (1 - 0.1 * i), t) for i, t in enumerate(times)]


class Failing:
    """A backend that measures nothing once it is told to."""

    def __init__(self) -> None:
        self._backend, self.broken = load("cpu"), False

    def change(self, now: Tensor, before: Tensor) -> Tensor:
        if self.broken:
            raise ArithmeticError("cannot measure")
        return self._backend.change(now, before)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def failing(how: SequenceParallel) -> None:
    """One rank cannot measure: all raise, and the next request is right again."""
    case, backend, faulty = VARIANTS[NAME], Failing(), 1
    model = case.build(num_attention_heads=4)
    with c4d.cached(model, HEAD, backend="cpu") as session:
        want = request(case, model, session)
    with sharded(model, how) as ranks, c4d.cached(model, HEAD, backend=backend, ranks=ranks) as session:
        request(case, model, session)
        backend.broken = rank() == faulty
        said = raised(lambda: request(case, model, session), ArithmeticError, DisagreementError)
        backend.broken = False
        got = request(case, model, session)
    assert ("cannot measure" if rank() == faulty else f"rank {faulty} of this request failed") in said, said
    found = error(got, want)
    assert found <= 1e-4, found


def differing(what: str, how: SequenceParallel) -> None:
    """The last rank is given something else than the others: all raise before a block runs."""
    case, x = VARIANTS[NAME], rand(*VARIANTS[NAME].latents, seed=3)
    method, times = HEAD, TIMES
    if rank() == last(how):
        method = {"methods": "fora:interval=2", "thresholds": HEAD.replace("0.2", "0.21")}.get(what, method)
        times = {"timesteps": [900.0, *TIMES[1:]], "numbers of steps": TIMES[:2]}.get(what, times)
        x = {
            "seeds": rand(*case.latents, seed=4),
            "sizes": rand(1, 4, 3, 12, 10, seed=3),
            "batches": x.repeat(2, 1, 1, 1, 1),
            "dtypes": x.double(),
        }.get(what, x)
        texts: dict[str, Callable[[], dict[str, Any]]] = {
            "prompts": lambda: dict(encoder_hidden_states=rand(1, 12, 16, seed=2)),
            "lengths of prompts": lambda: words(1, 11),
            "batches": lambda: words(2, 12),
        }
        case = replace(case, inputs=texts.get(what, case.inputs))
    model, entered = VARIANTS[NAME].build(num_attention_heads=4), list[None]()
    with sharded(model, how) as ranks:
        with c4d.cached(model, method, backend="cpu", ranks=ranks) as session:
            handle = model.blocks[0].register_forward_pre_hook(lambda *_: entered.append(None))
            said = raised(lambda: request(case, model, session, x, times), DisagreementError)
            handle.remove()
        assert not entered and "same prompts, sizes, options and noise" in said, said
        assert SAYS[what] in said, said
        same(said)
        with c4d.cached(model, HEAD, backend="cpu", ranks=ranks) as session:
            same(bits(*request(VARIANTS[NAME], model, session)))


SAYS = {
    "prompts": "different encoder_hidden_states",
    "seeds": "different hidden_states",
    "timesteps": "different timestep",
    **dict.fromkeys(
        ("lengths of prompts", "sizes", "batches", "dtypes", "methods", "thresholds", "numbers of steps"),
        "different methods, numbers of steps, branches of guidance or shapes",
    ),
}


CHANGED = {  # by what one rank is asked for, and what all say of it
    "negative prompts": (dict(negative_prompt="a blue square"), "different encoder_hidden_states"),
    "guidance": (dict(guidance=5.0), "different hidden_states"),
    "branches of guidance": (dict(guidance=1.0), "different methods, numbers of steps, branches of guidance or shapes"),
    "lengths": (dict(steps=5), "different methods, numbers of steps, branches of guidance or shapes"),
}


def asked(what: str, method: str | None, how: SequenceParallel) -> None:
    """The pipeline of the last rank is asked for something else, with a cache or without: all say so, in time."""
    subject, (change, says) = SUBJECTS["wan-tiny"], CHANGED[what]
    pipe, asked = subject.build(), dict(steps=4)
    with sharded(pipe, how) as ranks, ExitStack() as stack:
        if method is not None:
            stack.enter_context(c4d.cached(pipe, method, backend="cpu", ranks=ranks))
        different = {**asked, **(change if rank() == last(how) else {})}
        said = raised(lambda: subject.ask(pipe, **different), DisagreementError)
        assert says in said, said
        if what == "negative prompts":
            assert "step 1 of 4" in said, said  # before a block of its own branch runs
        same(said)
        same(bits(subject.ask(pipe, **asked)))


class Short:
    """Ranks as a session has them, of which the first one measures a token less."""

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks

    def unpadded(self, transformer: Any, x: Tensor, spread: bool = True) -> tuple[Tensor, int]:
        x, whole = self._ranks.unpadded(transformer, x, spread)
        return (x if rank() else x[:, :-1]), whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranks, name)


def short(how: SequenceParallel) -> None:
    """What is measured is not all of the tokens: all ranks say so."""
    case, model = VARIANTS[NAME], VARIANTS[NAME].build(num_attention_heads=4)
    with sharded(model, how) as ranks, c4d.cached(model, HEAD, backend="cpu", ranks=Short(ranks)) as session:
        said = raised(lambda: request(case, model, session), DisagreementError)
    assert f"as parts of {75 * 48}, {75 * 48}" in said, said
    same(said)


def last(how: SequenceParallel) -> int:
    return (how.ulysses or 1) * (how.ring or 1) * (how.cfg or 1) - 1


def nearly(how: SequenceParallel) -> None:
    """Text encoders of two devices do not give the same bits: that alone stops nobody."""
    model = VARIANTS[NAME].build(num_attention_heads=4)
    noise = 1 + 1e-3 * rank() * torch.sign(rand(1, 12, 16, seed=7))
    case = replace(VARIANTS[NAME], inputs=lambda: dict(encoder_hidden_states=noise * rand(1, 12, 16, seed=1)))
    with sharded(model, how) as ranks, c4d.cached(model, HEAD, backend="cpu", ranks=ranks) as session:
        request(case, model, session)
    same(session.report().timelines)


def replicas() -> None:
    """Two prompts at once, each on two ranks of its own: nobody asks the others, and both come out right."""
    case, x = VARIANTS[NAME], rand(*VARIANTS[NAME].latents, seed=rank() // 2)
    model = case.build(num_attention_heads=4)
    with c4d.cached(model, HEAD, backend="cpu") as session:
        want = request(case, model, session, x)
    with (
        sharded(model, SequenceParallel(2, 1, cfg=1, data=2)) as ranks,
        c4d.cached(model, HEAD, backend="cpu", ranks=ranks) as session,
    ):
        got = request(case, model, session, x)
    found, digests = error(got, want), gathered(bits(*got))
    assert found <= 1e-4, found
    assert digests[0] == digests[1] != digests[2] == digests[3], digests


def cases(world: int) -> dict[str, Case]:
    way = BOTH[world]
    how = WAYS[world][way]
    found = {f"{way}, ranks with different {what}": functools.partial(differing, what, how) for what in SAYS}
    for what, by in product(CHANGED, ("cache", "no cache") if world == 2 else ()):
        act = functools.partial(asked, what, FIXED if by == "cache" else None, how)
        found[f"{way}, ranks asked for different {what}, {by}"] = act
    return {
        **found,
        f"{way}, a rank that measures less": functools.partial(short, how),
        f"{way}, a rank that cannot measure": functools.partial(failing, how),
        f"{way}, nearly the same prompt": functools.partial(nearly, how),
        **({"data2 x U2, a prompt each": replicas} if world == 4 else {}),
    }
