"""Where the time goes, and why a cached clip is not faster."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace

import pytest
from torch import nn

from c4d.backends.reference import Reference
from c4d.pipelines import PHASES, Request, load_pipeline
from c4d.pipelines import generate as make_clip
from c4d.pipelines.compare import work
from c4d.pipelines.phases import Stopwatch
from c4d.pipelines.why import fractions, reasons
from tests.cli.conftest import PROMPT

BLOCKS = {"modules_total": 0, "modules_reused": 0}


def session(computed, reused, **more):
    total = 10 * (computed + reused)
    counts = {"computed": computed, "reused": reused, "blocks_total": total, "blocks_entered": 10 * computed}
    return {"method": "fora:interval=1", "why": [], **BLOCKS, **counts, **more}


def passes(preparing, computed, reused, between, decoding):
    return dict(preparing=preparing, computed=computed, reused=reused, between=between, decoding=decoding)


def steps(preparing, denoising, decoding):
    return dict(preparing=preparing, denoising=denoising, decoding=decoding)


THIRD = session(10, 20)
MODULES = session(10, 20, modules_total=900, modules_reused=600, blocks_entered=300)


@pytest.mark.parametrize(
    ("phases", "report", "warm", "said"),
    [
        ({"uncached": passes(0, 9, 0, 0, 0)}, None, False, []),
        ({"cached": passes(0, 3, 0.1, 0, 0), "uncached": passes(0, 9, 0, 0, 0)}, THIRD, True, []),
        ({"cached": passes(0, 9, 0, 0, 0)}, session(30, 0), True, ["^fora:interval=1 computed all 30 forwards$"]),
        (
            {"cached": passes(0, 9, 0, 0, 0), "uncached": passes(0, 9, 0, 0, 0)},
            session(30, 0, why=["interval 1 computes every step", "so it is"]),
            True,
            ["^interval 1 computes every step$", "^so it is$"],
        ),
        (
            {"cached": passes(0, 3, 0.1, 0, 0), "uncached": passes(0, 9, 0, 0, 0)},
            session(10, 20, why=["2 of 30 forwards measured NaN"]),
            True,
            ["^2 of 30 forwards measured NaN$"],
        ),
        (
            {"cached": passes(3.5, 4 / 3, 0, 0, 2.5), "uncached": passes(3.5, 4, 0, 0, 2.5)},
            THIRD,
            True,
            ["saved 67% .* without it .* is 40% .*prompt 35%, decoding the frames 25%.*1.4 times at most.* most 1.7"],
        ),
        (
            {"cached": steps(2, 2, 6)},
            THIRD,
            True,
            ["saved 67% of the blocks, and now the transformer is 20% .*prompt 20%, .* 60%.* 1.2 times as fast$"],
        ),
        (
            {"cached": passes(0, 3, 1.8, 0, 0), "uncached": passes(0, 9, 0, 0, 0)},
            THIRD,
            True,
            ["reused forward costs 30% of a computed one, for the prediction and what"],
        ),
        (
            {"cached": passes(0, 4.5, 0.6, 0, 0), "uncached": passes(0, 9, 0, 0, 0)},
            MODULES,
            False,
            ["a computed forward takes 50% longer with the cache", "one-time costs of a first run"],
        ),
        ({"cached": passes(0, 3, 1.8, 0, 0)}, MODULES, False, ["reused forward costs 30% "]),
        (
            {"cached": steps(0.1, 6, 0.1), "uncached": steps(0.1, 9, 0.1)},
            THIRD,
            True,
            ["removing noise still takes 67% of its uncached time though 67% of the blocks were saved: the rest"],
        ),
        (
            {"cached": steps(0, 8, 0), "uncached": steps(0, 9, 0)},
            session(25, 5),
            True,
            ["little was skipped: 17% of the blocks, .* 1.20 times at most"],
        ),
    ],
)
def test_reasons(phases, report, warm, said):
    seconds = {kind: sum(parts.values()) for kind, parts in phases.items()}
    speedup = seconds["uncached"] / seconds["cached"] if len(seconds) > 1 else None
    found = reasons(phases, report, report and work(report), speedup, warm)
    assert len(found) == len(said), found
    for reason, pattern in zip(found, said, strict=True):
        assert re.search(pattern, reason), reason


def test_fractions():
    assert fractions(passes(1, 2, 3, 0, 4)) == passes(0.1, 0.2, 0.3, 0, 0.4)
    assert set(passes(0, 0, 0, 0, 0)) | set(steps(0, 0, 0)) == set(PHASES)


class StepTracker(Reference):
    """A device whose time is the number of waits for it."""

    waits = 0

    def synchronize(self):
        self.waits += 1


def test_a_device_is_waited_for_at_the_borders_alone():
    backend = StepTracker()
    backend.asynchronous = True
    pipe = load_pipeline("wan-tiny", backend=Reference())
    hooks = (len(pipe.transformer._forward_pre_hooks), len(pipe.transformer._forward_hooks))
    request = Request(PROMPT, num_frames=5, height=32, width=32, steps=3)
    clip = make_clip(pipe, request, method=None, backend=backend, progress=False)
    assert backend.waits == 4 and list(clip.phases) == ["preparing", "denoising", "decoding"]
    assert sum(clip.phases.values()) == pytest.approx(clip.seconds) and min(clip.phases.values()) > 0
    assert hooks == (len(pipe.transformer._forward_pre_hooks), len(pipe.transformer._forward_hooks))


@pytest.mark.parametrize(
    ("calls", "wanted"),
    [
        ([[], [True], [True, False]], (3, 0.5)),  # when each begins, and in the end
        ([[], [True, False], [True, False, False, False]], (3, 0.5)),  # both branches of guidance in one batch
        (None, (3.5, 0)),
    ],
)
def test_phases_are_what_lies_between_their_borders(monkeypatch, calls, wanted):
    """A hook that was there before, such as a session's, is part of its forward: here it takes a second."""
    now = iter(
        [0.0, 2.0, 2.0, 4.0, 5.0, 6.0, 6.5, 6.5, 7.0, 10.0]
    )  # start, first forward, its begin, the hook, its end
    monkeypatch.setattr("c4d.pipelines.phases.time.perf_counter", lambda: next(now))
    transformer = nn.Linear(1, 1)
    transformer.forward = lambda: None
    heard: list[float] = []
    transformer.register_forward_pre_hook(lambda *_: heard.append(next(now)))
    told = None if calls is None else partial(next, iter(calls))
    with Stopwatch(SimpleNamespace(transformer=transformer), Reference(), told=told) as watch:
        transformer()
        transformer()
        watch.denoised()
    assert watch.seconds == 10 and heard == [4.0, 6.5]
    assert watch.phases() == passes(2, *wanted, 1.5, 3)


def test_forwards_are_told_apart_by_what_the_session_did(monkeypatch):
    seen, real, pipe = [], Stopwatch._computed, load_pipeline("wan-tiny", backend=Reference())
    monkeypatch.setattr(Stopwatch, "_computed", lambda self: seen.append(real(self)) or seen[-1])
    request = Request(PROMPT, num_frames=5, height=32, width=32, steps=3)
    make_clip(pipe, request, method="taylorseer-lite:interval=2,last=0", backend=Reference(), progress=False)
    assert seen == [[True, True, False, False, True, True]], "of both branches of guidance"


def test_a_pipeline_that_never_calls_its_transformer(monkeypatch):
    now = iter([0.0, 4.0])
    monkeypatch.setattr("c4d.pipelines.phases.time.perf_counter", lambda: next(now))
    with Stopwatch(SimpleNamespace(), Reference()) as watch:
        pass
    assert watch.phases() == steps(4, 0, 0)
