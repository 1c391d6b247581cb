"""The bench of isolation sees a leak where there is one, and none in c4d; the other systems are not needed for this."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from bench.peers import isolation


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
        """Like a cache that counts passes: every third one is answered by the one before it, whatever that was."""
        seen = []

        def third(module, args, output):
            seen.append(output)
            return seen[-2] if len(seen) % 3 == 0 else output

        handle = model.norm_out.register_forward_hook(third)
        yield seen.clear
        handle.remove()

    assert leaks(forgetful) == {"after a request of 5 steps, no reset", isolation.SKIPPED}
