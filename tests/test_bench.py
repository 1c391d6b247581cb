"""The bench of isolation sees a leak where there is one, and none in c4d; the other systems are not needed for this."""

from __future__ import annotations

import importlib
from contextlib import contextmanager

import pytest
import torch

from bench.peers import isolation, ranks
from bench.stamp import ROOT


@pytest.fixture(autouse=True)
def one_case(monkeypatch):
    monkeypatch.setattr(isolation, "BEFORE", {"a request of 5 steps": {"steps": 5}})
    with torch.no_grad():
        yield


def leaks(attach):
    return {case for case, cell in isolation.column(attach).items() if getattr(cell, "leaks", False)}


@pytest.mark.parametrize("name", isolation.OURS)
def test_c4d_does_not_leak(name):
    assert not leaks(isolation.OURS[name])


def test_a_leak_is_seen():
    @contextmanager
    def forgetful(model, scheduler):
        """Like a cache that counts forwards: every third one is answered by the one before it, whatever that was."""
        seen = []

        def third(module, args, output):
            seen.append(output)
            return seen[-2] if len(seen) % 3 == 0 else output

        handle = model.norm_out.register_forward_hook(third)
        yield seen.clear
        handle.remove()

    assert leaks(forgetful) == {"after a request of 5 steps, no reset", isolation.SKIPPED}


@pytest.mark.parametrize(
    "said, says",
    [
        ([dict(passes="CrC", done=True)] * 2, "the same decisions; completes"),
        ([dict(passes="CrC", done=True), dict(passes="CCC", done=True)], "**different decisions**; completes"),
        ([dict(passes="C", ran=1), dict(passes="C", ran=2)], f"**the ranks part**; ended after {ranks.LIMIT} s"),
        ([dict(passes="C", ran=1, raised="E: late"), dict(passes="C", ran=2)], "**the ranks part**; raises E: late"),
        ([dict(passes="C", ran=8, raised="E: no")] * 2, "raises E: no"),
        ([{}, {}], "its processes end without a word"),
    ],
)
def test_what_became_of_ranks_is_told(said, says):
    assert ranks.outcome(said) == says


@pytest.mark.parametrize(
    "said, says",
    [
        (
            [dict(error=e, bytes=b, collectives=3) for e, b in ((0.0, 10), (4e-7, 12))],
            "4.0e-07; 12 bytes in 3 collectives",
        ),
        ([dict(error=e, bytes=9, collectives=3) for e in (0.0, 1e-2)], "**1.0e-02**; 9 bytes in 3 collectives"),
        ([dict(error=0.0, bytes=9, collectives=3), {}], "its processes end without a word"),
        ([dict(raised="E: no"), {}], "raises E: no"),
    ],
)
def test_a_wrong_result_is_told(said, says):
    assert ranks.cell(said) == says


def test_every_module_of_the_bench_imports():
    """A name that moved is noticed, also where only a person runs the command."""
    for path in sorted((ROOT / "bench").rglob("*.py")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
