"""Histories on the host: the next ones are on their way while one is at work, few at a time, and none for nothing."""

from __future__ import annotations

import weakref

import pytest
import torch

import c4d
from c4d.backends.reference import Reference
from c4d.core.runtime.read_ahead import SITES
from c4d.core.types import Fetching
from tests.tiny import CASES, rand

CASE = CASES["wan-t2v"]
MODULES = 4 * 3  # sites of its four blocks
METHODS = {
    "taylorseer:interval=3,order=1": 2,  # parts of a site
    "taylorseer-lite:interval=3,order=1": 2,
    "taylorseer-lite:interval=3,order=1@blocks": 2,
    "first-block:threshold=1e9,last=0": 1,
    "dmd:interval=2": 3,
    "clusca:interval=3,clusters=4": 2,
    "speca:threshold=1e-9,max_drafts=2,mode=strict,warmup=2": 3,
    "foca:interval=3,warmup=2": 5,
}


class Counted(Fetching):
    def __init__(self, tensor, told):
        super().__init__(tensor)
        self.told, self.number = told, sum(what == "begun" for what, _ in told)
        told.append(("begun", self.number))

    def wait(self):
        self.told.append(("waited", self.number))
        return super().wait()


class Counting(Reference):
    """Copies to and fro, as between two memories."""

    def __init__(self):
        self.told, self.there = [], weakref.WeakSet()

    @property
    def held(self):
        return len(self.there)

    def begin_fetch(self, parked):
        fetching = Counted(parked.tensor.clone(), self.told)
        self.there.add(fetching)
        return fetching


Counted.__hash__ = object.__hash__


def numbers(told, what):
    return {number for each, number in told if each == what}


def looped(method, backend=None, **kept):
    model = CASE.build()
    with c4d.cached(model, method, backend=backend or "cpu", **kept) as session:
        held = []
        model.register_forward_hook(lambda *_: held.append(getattr(backend, "held", 0)))
        out = CASE.loop(model, 8, session.begin)
        assert session.report().reused or session.report().modules_reused
    return torch.stack(list(out)), held


@pytest.mark.parametrize("method, dtype", [*((method, None) for method in METHODS), (next(iter(METHODS)), torch.int8)])
def test_it_is_what_is_on_the_device_bit_for_bit_and_nothing_is_fetched_for_nothing(method, dtype):
    backend = Counting()
    wanted, _ = looped(method, history_dtype=dtype)
    found, held = looped(method, backend, history_on="host", history_dtype=dtype)
    assert torch.equal(found, wanted)
    if "speca" not in method:  # a draft that is rejected has its last sites begun
        assert numbers(backend.told, "begun") == numbers(backend.told, "waited") != set()
    parts = METHODS[method] * (1 if dtype is None else 2)
    assert set(held[1:]) <= set(range((SITES + 1) * parts + 1)) and backend.held == 0


def test_the_next_sites_are_begun_before_one_is_waited_for():
    """Of 12 sites with two features each; the first ones before any module of the forward runs."""
    backend, model, x = Counting(), CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, "taylorseer:interval=3,order=1", backend=backend, history_on="host") as session:
        session.begin(range(900, 0, -100))
        most, embedded = [], []
        model.patch_embedding.register_forward_hook(lambda *_: embedded.append(list(backend.told)))
        for block in model.blocks:
            block.register_forward_hook(lambda *_: most.append(backend.held))
        for t in (900, 800, 700, 600):
            CASE.run(model, x, float(t))
            backend.told.clear()
            if t == 700:
                most.clear()
        CASE.run(model, x, 500.0)
        assert embedded[-1] == [("begun", n) for n in range(2 * SITES)]
        assert backend.held == 0 and max(most) == 2 * (SITES + 1)
    begun = 0
    for what, number in backend.told:
        begun = max(begun, number + 1) if what == "begun" else begun
        assert what == "begun" or begun == min(2 * MODULES, 2 * (number // 2 + 1 + SITES))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_forward_that_raises_leaves_nothing_on_the_device(error):
    backend, model, x = Counting(), CASE.build(), rand(*CASE.latents)

    def stop(*_):
        raise error

    with c4d.cached(model, "taylorseer:interval=3,order=1", backend=backend, history_on="host") as session:
        with pytest.raises(error), session.begin(range(900, 0, -100)):
            CASE.run(model, x, 900.0)
            model.blocks[1].register_forward_hook(stop)
            assert backend.held == 0
            CASE.run(model, x, 800.0)
        assert numbers(backend.told, "begun") and backend.held == 0 and session.bytes() == 0
        model.blocks[1]._forward_hooks.clear()
        CASE.loop(model, 4, session.begin)
        assert backend.held == 0


def test_what_is_on_its_way_is_counted():
    backend, model, x = Counting(), CASE.build(), rand(*CASE.latents)
    with c4d.cached(model, "fora:interval=3", backend=backend, history_on="host") as session:
        session.begin(range(900, 0, -100))
        CASE.run(model, x, 900.0)
        parked, seen = session.bytes(), []
        model.patch_embedding.register_forward_hook(lambda *_: seen.append(session.bytes()))
        CASE.run(model, x, 800.0)
        assert seen == [parked + parked * SITES // MODULES] and session.bytes() == parked
