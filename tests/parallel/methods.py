"""Every method on several ranks: the result and the forwards of one process, and no collective that is not stated here.

A forward sends what its blocks and its final gather do (tests/parallel/traffic.py), and to decide and forecast

- nothing, if its decisions are known beforehand (schedules, intervals, tokens, MagCache, PAB, FasterCache, guidance,
  learned ones, those of single channels), and of a call without condition that is spared not even the gather; tokens
  are weighed on each rank;
- one gather of 5 numbers a signal (TeaCache, First-Block, SeaCache: 1; EasyCache: 2, and 3 after a computed forward;
  SpeCa: 1 of a verified draft, whose last block sends what a computed one does, and a rejected one everything twice);
- one gather of 10 numbers for a forecast that follows a probe (DiCache);
- one gather of the slow coefficients, [B, K, D] in fp32, for a forecast in bands (FreqCa);
- one gather of K x K inner products and 3 numbers a sample, in fp64, after a computed forward, for dynamic modes.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

from torch import Tensor

import c4d
from bench.wire import Wire
from c4d import SequenceParallel
from c4d.core.caching.feature_forecasters import DynamicModes, FrequencySplit, ProbeAligned
from c4d.core.runtime.spectrum import low_pass
from c4d.core.spec import STREAM, TEXT_STREAM
from c4d.core.text.grammar import parse
from c4d.core.types import OUTPUT, Action, Signal
from tests.methods import CHANNELS, EVERY, SIGMAS, STEPS, calls_of
from tests.parallel.forwards import VARIANTS, alone
from tests.parallel.job import WAYS, Case, bits, error, passes, raised, rank, same, sharded
from tests.parallel.traffic import Expected

NAME = "wan"  # 75 tokens in a box of 3 x 5 x 5, 4 heads of 12
COMPARED = (0, 1, 2, STEPS - 1)  # the steps whose first call ranks compare; of the first one every call


@functools.cache
def by_itself(text: str) -> tuple[Any, Any]:
    return run(text, None)[:2]


def run(text: str, ranks: Any) -> tuple[Any, Any, list[tuple[int, int]]]:
    """Outputs, session, and of each forward how many collectives it made and of how many bytes."""
    model, x, _ = alone(NAME, 4)
    outs, sent = [], []
    with c4d.cached(model, text, backend="cpu", ranks=ranks) as session:
        session.begin([700.0] * STEPS, SIGMAS)
        for step in range(STEPS):
            for call in calls_of(model, text):
                with call, Wire() as wire:
                    outs.append(VARIANTS[NAME].run(model, (1.0 - 0.02 * step) * x, 700.0 - 10 * step))
                sent.append((len(wire.sent), wire.bytes))
    return outs, session, sent


def stated(text: str, session: Any, how: SequenceParallel) -> list[tuple[int, int]]:
    """What each forward sends, by the rules above."""
    model, *_ = alone(NAME, 4)
    expected = Expected(NAME, model, how, 4)
    others, method = expected.u * expected.r - 1, parse(text)
    forecast = method.rules[0].forecast
    strict = getattr(method.rules[0].policy, "strict", False)
    attention = next((i for i, rule in enumerate(method.rules) if "attn" in rule.sites), None)
    found, stored, fresh = [], 0, False
    for entry in session.trace:
        spared = entry.guidance is Action.REUSE
        skipped = entry.actions and attention is not None and entry.actions[attention] is not Action.COMPUTE
        rejected = strict and entry.computed and Signal.DRAFT in entry.seen  # the draft, and then all of it once more
        entered = max(0, entry.blocks - expected.layers) if skipped or rejected else entry.blocks
        calls, bytes_ = entered * expected.calls, entered * expected.block
        if rejected:
            calls, bytes_ = calls + 1, bytes_ + expected.gather
        if not spared and (entry.computed or method.rules[0].sites != (OUTPUT,)):
            calls, bytes_ = calls + 1, bytes_ + expected.gather
        if entry.step.index in COMPARED and (entry.step.index == 0 or entry.step.branch != "uncond"):
            calls, bytes_ = calls + 1, bytes_ + 512 * others
        if isinstance(forecast, ProbeAligned) and not entry.computed and stored > 1:
            calls, bytes_ = calls + 1, bytes_ + 40 * others
        if entry.seen:
            calls, bytes_ = calls + 1, bytes_ + 20 * len(entry.seen) * others
        if isinstance(forecast, FrequencySplit) and not entry.computed:
            slow = len(low_pass(((3, 5, 5),), forecast.cutoff))
            calls, bytes_ = calls + 1, bytes_ + slow * 48 * 4 * others
        stored, fresh = (stored + 1, True) if entry.computed else (stored, fresh)
        if isinstance(forecast, DynamicModes) and not entry.computed and fresh and even(session, entry) >= 4:
            kept = min(stored, forecast.window)
            calls, bytes_, fresh = calls + 1, bytes_ + (kept * kept + 3) * 8 * others, False
        found.append((calls, bytes_))
    return found


def even(session: Any, now: Any) -> int:
    """How many of the computed steps before ``now`` are evenly spaced at the end."""
    steps = [e.step.index for e in session.trace if e.computed and e.step.index < now.step.index]
    gaps = [b - a for a, b in pairwise(steps)][::-1]
    return next((i for i, gap in enumerate(gaps) if gap != gaps[0]), len(gaps)) + 1


def on_ranks(text: str, how: SequenceParallel) -> None:
    want, own = by_itself(text)
    model, *_ = alone(NAME, 4)
    with sharded(model, how) as ranks:
        got, session, sent = run(text, ranks)
    assert passes(session) == passes(own), (session.report().timelines, own.report().timelines)
    partial = any(entry.partial for entry in session.trace)  # each rank picks among its own tokens
    assert max(error(a, b) for a, b in zip(got, want, strict=True)) <= (0.2 if partial else 1e-4)
    same(bits(*got))
    assert sent == stated(text, session, how), list(zip(sent, stated(text, session, how), session.trace, strict=True))


def weights(name: str, text: str, ranks: Any) -> dict[str, Tensor]:
    """What the tokens of the second block weigh after a computed step, by stream; and a step that computes some."""
    model, x, _ = alone(name, 4)
    attending = c4d.attention(model, backend="cpu") if ranks is None else sharded(model, ranks)
    with attending, c4d.cached(model, text, backend="cpu", ranks=None if ranks is None else attending) as session:
        session.begin([700.0, 600.0, 500.0])
        for step in range(2):
            VARIANTS[name].run(model, x, 700.0 - 100.0 * step)
        branch = next(iter(session._run.branches.values()))
        return next(w for block, w in branch.tokens.weights.items() if block.endswith(".1"))


def weighed(name: str, score: str, how: SequenceParallel) -> None:
    """Keys and values of a rank's own tokens, and of text, are those of one process; attention is refused on all."""
    text = f"toca:interval=3,ratio=0.3,score={score}"
    if score == "attention":
        said = raised(lambda: weights(name, text, how), RuntimeError)
        assert "its queries are spread over ranks" in said, said
        return
    whole, mine = weights(name, text, None), weights(name, text, how)
    (one, part), words = (whole[STREAM], mine[STREAM]), (whole[TEXT_STREAM], mine[TEXT_STREAM])
    own = one[:, rank() * part.shape[1] :][:, : part.shape[1]]
    assert own.shape[1] and part.shape[1] < one.shape[1]
    assert error(part[:, : own.shape[1]], own) <= 1e-5
    assert words[0].shape == words[1].shape and (not words[0].numel() or error(*words) <= 1e-5)


def cases(world: int) -> dict[str, Case]:
    ways = {way: how for way, how in WAYS[world].items() if way in ("U2", "R2")}
    texts = {kind: text.format(signal="time_projection") for kind, text in {**EVERY, **CHANNELS}.items()}
    read = {
        f"{way}, tokens of {name} by {score}": functools.partial(weighed, name, score, how)
        for way, how in ways.items()
        for name, score in (("wan", "value"), ("flux", "key"), ("wan", "attention"))
    }
    return read | {
        f"{way}, every method, {kind}": functools.partial(on_ranks, text, how)
        for way, how in ways.items()
        for kind, text in texts.items()
    }
