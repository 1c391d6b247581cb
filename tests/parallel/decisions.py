"""A threshold between what two ranks measure of their own tokens: deciding by that, they would part; ours do not.

A rank that computes waits in the exchange of a block for one that reuses, which never comes there: that it hangs is
shown, within a time limit, in docs/measurements/peers/ranks.md. Here both kinds of decision are made of the numbers.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

import c4d
from c4d import SequenceParallel
from c4d.core.types import Action, RelativeL1, Step
from tests.parallel.forwards import VARIANTS
from tests.parallel.job import WAYS, Case, gathered, passes, same, sharded

STEPS = 3
ADAPTIVE = {  # every signal, on a model where ranks measure different numbers
    "first-block, wan": ("wan", "first-block:threshold={},last=0"),
    "first-block, hunyuan": ("hunyuan, mixed lengths of text", "first-block:threshold={},last=0"),
    "teacache, time_embedding": (
        "wan, timesteps of each token", "teacache:threshold={},coefficients=1/0,signal=time_embedding,last=0",
    ),
    "teacache, time_projection": (
        "wan, timesteps of each token", "teacache:threshold={},coefficients=1/0,signal=time_projection,last=0",
    ),
    "teacache, modulated_input, hunyuan": (
        "hunyuan, mixed lengths of text", "teacache:threshold={},coefficients=1/0,signal=modulated_input,last=0",
    ),
    "teacache, modulated_input, hunyuan with a first frame": (
        "hunyuan, first frame given", "teacache:threshold={},coefficients=1/0,signal=modulated_input,last=0",
    ),
    "teacache, modulated_input, flux": (
        "flux", "teacache:threshold={},coefficients=1/0,signal=modulated_input,last=0",
    ),
    "teacache, modulated_input, qwen": (
        "qwen, edit", "teacache:threshold={},coefficients=1/0,signal=modulated_input,last=0",
    ),
}  # fmt: skip
ADAPTIVE = {what: (name, f"{text},batch=mean") for what, (name, text) in ADAPTIVE.items()}


class Overheard:
    """Ranks as a session has them; ``own`` keeps what this one measured by itself."""

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks
        self.own: list[RelativeL1] = []

    def all_sum(self, partial: Tensor, *rest: Any) -> Any:
        self.own += [RelativeL1(*row) for row in partial.tolist()]
        return self._ranks.all_sum(partial, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranks, name)


@functools.cache
def measured_alone(name: str, text: str) -> float:
    """The first change that one process measures."""
    case = VARIANTS[name]
    model = case.build(num_attention_heads=4)
    with c4d.cached(model, text.format(1e-9), backend="cpu") as session:
        case.loop(model, STEPS, session.begin)
    ((_, change),) = next(entry for entry in session.trace if entry.seen).seen.items()
    return change.ratio


def planted(name: str, text: str, how: SequenceParallel) -> None:
    case = VARIANTS[name]
    model = case.build(num_attention_heads=4)
    with sharded(model, how) as ranks:
        heard = Overheard(ranks)
        with c4d.cached(model, text.format(1e-9), backend="cpu", ranks=heard) as session:
            case.loop(model, STEPS, session.begin)
        deciding = next(entry for entry in session.trace if entry.seen)
        ((signal, change),) = deciding.seen.items()
        assert abs(change.ratio - measured_alone(name, text)) < 1e-4 * change.ratio
        own = gathered(heard.own[0].ratio)
        far = max(own, key=lambda ratio: abs(ratio - change.ratio))
        threshold = (far + change.ratio) / 2
        assert abs(far - change.ratio) > 1e-3 * change.ratio, (own, change.ratio)
        with c4d.cached(model, text.format(threshold), backend="cpu", ranks=ranks) as session:
            case.loop(model, STEPS, session.begin)
    policy = session.method.rules[0].policy
    _, state = policy.decide(policy.init(), Step(0, STEPS, "cond"), {})

    def decided(by: RelativeL1) -> Action:
        return policy.decide(state, Step(1, STEPS, "cond"), {signal: by})[0]

    assert len(set(gathered(decided(heard.own[0])))) == 2, (own, threshold)
    same(passes(session))
    (first,) = (entry for entry in session.trace if entry.step[:3] == (1, STEPS, "cond"))
    assert first.actions == (decided(change),), (first, change, threshold)


def cases(world: int) -> dict[str, Case]:
    return {
        f"{way}, threshold between ranks, {what}": functools.partial(planted, name, text, how)
        for way, how in WAYS[world].items()
        if way in ("U2", "R2", "U2R2")
        for what, (name, text) in ADAPTIVE.items()
    }
